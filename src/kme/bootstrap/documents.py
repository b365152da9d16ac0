"""documents - documents of the key store that a site begins with: read, created, changed by nobody.

Writes say which version they replace (check-and-set): what somebody else wrote
meanwhile is never lost.
"""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import hvac
from hvac.exceptions import InvalidPath

from kme.bootstrap.engines import KV_MOUNT
from kme.bootstrap.steps import Step

DIGEST_KEY: Final = "site/digest-key"

_DIGEST_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Document:
    """One document as it was read.

    Parameters
    ----------
    data
        Its members.
    version
        Which version that was; 0 if it is not written yet.
    """

    data: Mapping[str, Any]
    version: int


def digest_key_step(client: hvac.Client) -> Step:
    """Return the step that makes the key of the digests that stand beside final keys, once."""

    def make() -> None:
        key = secrets.token_bytes(_DIGEST_KEY_BYTES)
        write_document(client, DIGEST_KEY, {"key": base64.b64encode(key).decode("ascii")}, 0)

    return Step(
        f"{DIGEST_KEY} is there", lambda: read_document(client, DIGEST_KEY) is not None, make
    )


def read_document(client: hvac.Client, path: str) -> Document | None:
    """Return a document; None if there is none."""
    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path, mount_point=KV_MOUNT, raise_on_deleted_version=True
        )
    except InvalidPath:
        return None
    return Document(answer["data"]["data"], answer["data"]["metadata"]["version"])


def write_document(
    client: hvac.Client, path: str, data: Mapping[str, object], version: int
) -> None:
    """Write a document in place of the version that was read."""
    client.secrets.kv.v2.create_or_update_secret(
        path, secret=dict(data), cas=version, mount_point=KV_MOUNT
    )
