"""vault_configuration - all that a Vault is set up as, read with a root token, to be compared."""

from typing import Any

import hvac

from fresh_vault import FreshVault
from kme.bootstrap.access import open_client
from kme.bootstrap.engines import ENGINES
from kme.bootstrap.root_token import root_session
from kme.bootstrap.shares import read_shares


def read_configuration(vault: FreshVault) -> dict[str, Any]:
    """Return every mount, role, policy, issuer and document; serials of what was issued."""
    client = open_client(vault.address)
    with root_session(client, read_shares(vault.places.unsealer_shares)):
        return {
            "audit": client.sys.list_enabled_audit_devices()["data"],
            "auth": sorted(client.sys.list_auth_methods()["data"]),
            "mounts": sorted(client.sys.list_mounted_secrets_engines()["data"]),
            "policies": {
                name: client.sys.read_acl_policy(name)["data"]["policy"]
                for name in client.sys.list_acl_policies()["data"]["keys"]
                if name != "root"
            },
            "logins": {
                name: client.auth.cert.read_ca_certificate_role(name)["data"]
                for name in client.auth.cert.list_certificate_roles()["data"]["keys"]
            },
            "authorities": {engine.name: _authority(client, engine.mount) for engine in ENGINES},
            "kv": client.read("kme/config")["data"],
            "documents": {
                path: client.secrets.kv.v2.read_secret_version(
                    path, mount_point="kme", raise_on_deleted_version=True
                )["data"]
                for path in ("site/digest-key", "registry/saes")
            },
        }


def without_identities(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return what two installations of one site have in common."""
    kept = {name: configuration[name] for name in ("auth", "mounts", "policies", "kv")}
    for login in configuration["logins"].values():
        login.pop("certificate")
    authorities = {
        name: {"n_keys": len(found["keys"]), "n_issuers": len(found["issuers"]), **found["roles"]}
        for name, found in configuration["authorities"].items()
    }
    documents = sorted(configuration["documents"])
    return {**kept, "logins": configuration["logins"], "authorities": authorities, "d": documents}


def _authority(client: hvac.Client, mount: str) -> dict[str, Any]:
    roles = client.list(f"{mount}/roles")["data"]["keys"]
    issuers = client.list(f"{mount}/issuers")["data"]["keys"]
    return {
        "keys": client.list(f"{mount}/keys")["data"]["keys"],
        "issuers": {one: client.read(f"{mount}/issuer/{one}")["data"] for one in issuers},
        "roles": {role: client.read(f"{mount}/roles/{role}")["data"] for role in roles},
        "certificates": client.list(f"{mount}/certs")["data"]["keys"],
        **{
            name: client.read(f"{mount}/config/{name}")["data"]
            for name in ("urls", "crl", "acme", "issuers")
        },
    }
