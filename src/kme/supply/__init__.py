"""supply - key blocks become keys: new keys, keys by key_ID, stock."""
