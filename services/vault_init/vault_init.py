"""vault_init: initialise Vault and set it up, then exit (logic: kme.bootstrap)."""

from kme.appliance.vault_init import main

if __name__ == "__main__":
    main()
