"""ingest - epoch files become final keys in the inbox, each exactly once."""
