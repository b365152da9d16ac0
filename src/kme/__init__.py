"""kme - the key management entity: epoch files in, keys for applications out."""

__version__ = "0.1.0"
