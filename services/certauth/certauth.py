"""certauth: make the PKI of certs/profiles.toml, sign Vault's CAs (logic: kme.bootstrap)."""

from kme.appliance.certauth import main

if __name__ == "__main__":
    main()
