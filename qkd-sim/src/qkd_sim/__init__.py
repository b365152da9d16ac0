"""qkd_sim - the simulated link: photon detection events in, final key files out."""

__version__ = "0.1.0"
