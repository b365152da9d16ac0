"""rest - ETSI GS QKD 014 for SAEs and the peer interface, from keys in Vault.

Run by ``gunicorn --config gunicorn.conf.py rest:application``.
"""

from kme.appliance.rest.worker import application

__all__ = ["application"]
