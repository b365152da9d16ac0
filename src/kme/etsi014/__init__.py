"""etsi014 - keys over HTTPS, as ETSI GS QKD 014 V1.1.1 describes it."""
