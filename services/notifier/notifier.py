"""notifier: announce epoch files already on disk, then exit (logic: kme.appliance.notifier)."""

from kme.appliance.notifier import main

if __name__ == "__main__":
    main()
