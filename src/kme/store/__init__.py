"""store - what a KME keeps: the inbox of final keys, key blocks, their ledgers, the pair's records."""
