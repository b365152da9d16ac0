"""unsealer: watch Vault's seal and unseal it after every restart (logic: kme.bootstrap.unseal)."""

from kme.appliance.unsealer import main

if __name__ == "__main__":
    main()
