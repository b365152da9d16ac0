"""watcher: put finished epoch files into Vault as final keys (logic: kme.appliance.watcher)."""

from kme.appliance.watcher import main

if __name__ == "__main__":
    main()
