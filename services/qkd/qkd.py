"""qkd: run the simulated link for both KMEs, then exit (logic: kme.appliance.qkd)."""

from kme.appliance.qkd import main

if __name__ == "__main__":
    main()
