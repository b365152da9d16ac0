"""store - what a KME keeps: inbox of final keys, key blocks, ledgers, the records of each pair."""
