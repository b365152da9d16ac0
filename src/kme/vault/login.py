"""login - a certificate shown to Vault, a token for some time out."""

import ssl
import time
from dataclasses import dataclass
from typing import Final

from kme.errors import StoreUnavailableError
from kme.secret import Secret
from kme.vault.client import VaultAccess, connect, tls_context
from kme.vault.failures import FAILURES, explain, member_of

_DUE_AFTER: Final = 2 / 3
"""Part of a token's life after which the next login is due."""

_NO_TOKEN_LIFE_S: Final = 600.0
"""Life of a "login" without token: how often its certificate files are read again."""


@dataclass(frozen=True, slots=True)
class Login:
    """What one login gave.

    Parameters
    ----------
    token
        What Vault knows us by; None if the access names no role.
    due
        When the next login is due, by the monotonic clock.
    context
        The certificates that it was made with.
    """

    token: Secret | None
    due: float
    context: ssl.SSLContext


def log_in(access: VaultAccess) -> Login:
    """Log in with the certificate that lies on disk now.

    A new login, not a renewal of the token: it takes up a renewed certificate,
    needs no policy and has no longest lifetime. The old token dies by itself.

    Raises
    ------
    CredentialError
        If a certificate file cannot be used.
    StoreUnavailableError
        If Vault cannot be reached, is sealed or refuses the login.
    """
    begin, context = time.monotonic(), tls_context(access)
    if access.role is None:
        return Login(None, begin + _NO_TOKEN_LIFE_S, context)
    client = connect(access, context=context)
    try:
        # hvac's own login by certificate insists on paths; the context has the certificate.
        answer = client.write_data("auth/cert/login", data={"name": access.role})
        auth = member_of(answer, "auth")
        due = begin + auth["lease_duration"] * _DUE_AFTER
        return Login(Secret(auth["client_token"].encode()), due, context)
    except FAILURES as error:
        failure = explain(error, access)
    finally:
        client.adapter.close()
    raise StoreUnavailableError(f"no login as {access.role}: {failure.message}", vault=access.url)
