"""registry - who belongs to whom: this KME's SAEs, those of its peers, and where peers are."""
