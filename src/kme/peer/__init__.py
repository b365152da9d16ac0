"""peer - the private interface between two KMEs: both ends of it, over HTTPS."""
