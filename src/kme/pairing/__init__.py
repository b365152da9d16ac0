"""pairing - final keys that both KMEs hold become key blocks, in step and for good."""
