"""policies - files of what each role may do in, policies of Vault out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import hvac
from hvac.exceptions import InvalidPath

from kme.bootstrap.steps import Step
from kme.errors import InputError

ROLES: Final = ("watcher", "rest", "inspect", "admin", "backup", "restore", "metrics")
"""Who logs in to Vault; each has a policy of its own name."""

_MAX_POLICY_BYTES: Final = 1 << 16


def read_policies(folder: Path) -> dict[str, str]:
    """Read the policy of every role, ``<role>.hcl``.

    Raises
    ------
    InputError
        If one is missing, empty or unreadable.
    """
    return {role: _read(folder / f"{role}.hcl") for role in ROLES}


def policy_steps(client: hvac.Client, policies: Mapping[str, str]) -> list[Step]:
    """Return the steps after which Vault has these policies."""
    return [_step(client, name, text) for name, text in policies.items()]


def _step(client: hvac.Client, name: str, text: str) -> Step:
    def is_done() -> bool:
        try:
            found: str = client.sys.read_acl_policy(name)["data"]["policy"]
        except InvalidPath:
            return False
        return found == text

    def do() -> None:
        client.sys.create_or_update_acl_policy(name, text, pretty_print=False)

    return Step(f"policy {name} is loaded", is_done, do)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: this policy cannot be read: {error.strerror}") from error
    if not data.strip() or len(data) > _MAX_POLICY_BYTES:
        raise InputError(f"{path}: this policy is empty or too long")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this policy is not UTF-8") from error
