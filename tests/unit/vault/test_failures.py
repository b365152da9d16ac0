"""What Vault's refusals become: what to do, nothing of the request."""

import ssl
from pathlib import Path

import pytest
import requests
from hvac import exceptions

from kme.errors import ConflictError, InputError, KmeError, StoreUnavailableError
from kme.pki.bundle import CredentialFiles
from kme.vault.client import VaultAccess
from kme.vault.failures import (
    explain,
    member_of,
    says_not_ready,
    says_nothing_there,
    says_token_is_dead,
)

URL = "https://vault:8200"
ACCESS = VaultAccess(
    URL, Path("ca.pem"), CredentialFiles(Path("client.pem"), Path("client-key.pem")), "rest"
)
SECRET = "the-secret-key-bytes"


def answer(status: int, *errors: str) -> exceptions.VaultError:
    made: exceptions.VaultError = exceptions.VaultError.from_status(
        status,
        errors=list(errors),
        method="post",
        url=f"{URL}/v1/kme/data/blocks/kme-b/7?version=1",
        text=SECRET,
        json={"data": SECRET},
    )
    return made


def broken(kind: type[requests.RequestException], cause: Exception) -> requests.RequestException:
    request = requests.Request("POST", URL, json={"key": SECRET}).prepare()
    error = kind(cause, request=request)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            answer(400, "check-and-set parameter did not match the current version"),
            ConflictError,
            "somebody else wrote kme/data/blocks/kme-b/7 first",
        ),
        (answer(400, "no such role"), InputError, "kme/data/blocks/kme-b/7: no such role"),
        (
            answer(400, "Upgrading from non-versioned to versioned data."),
            StoreUnavailableError,
            "now: upgrading from",
        ),
        (
            answer(403, "1 error occurred:\n\t* permission denied\n\n"),
            StoreUnavailableError,
            "policy for role rest does not allow kme/data/blocks/kme-b/7",
        ),
        (answer(404, "no handler for route"), StoreUnavailableError, "run vault_init"),
        (answer(429, "quota exceeded"), StoreUnavailableError, "asked too often"),
        (answer(500, "disk full"), StoreUnavailableError, "now: disk full"),
        (answer(501), StoreUnavailableError, "not initialised: run vault_init"),
        (answer(503, "Vault is sealed"), StoreUnavailableError, "sealed: unseal it"),
        (answer(503), StoreUnavailableError, "no reason given"),
        (answer(502), StoreUnavailableError, "cannot serve"),
        (
            broken(requests.ReadTimeout, TimeoutError("x")),
            StoreUnavailableError,
            "within 5 s",
        ),
        (
            broken(requests.ConnectionError, ConnectionRefusedError(111, "Connection refused")),
            StoreUnavailableError,
            r"is it running\? \(Connection refused\)",
        ),
        (
            broken(requests.ConnectionError, ssl.SSLEOFError(8, "EOF occurred")),
            StoreUnavailableError,
            "does it trust the certificate client.pem",
        ),
        (broken(requests.exceptions.InvalidJSONError, ValueError("x")), InputError, "not JSON"),
    ],
)
def test_each_failure_has_its_error_that_says_what_to_do(
    error: Exception, kind: type[KmeError], text: str
) -> None:
    found = explain(error, ACCESS)
    assert type(found) is kind
    with pytest.raises(kind, match=f"(?i){text}"):
        raise found
    assert SECRET not in f"{found.diagnostics()} {found.__cause__} {found.__context__}"


def test_only_a_403_with_these_words_is_a_dead_token() -> None:
    assert says_token_is_dead(
        answer(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
    )
    assert not says_token_is_dead(answer(403, "1 error occurred:\n\t* permission denied\n\n"))
    assert not says_token_is_dead(answer(400, "invalid token"))


def test_a_mount_that_is_prepared_is_not_ready() -> None:
    words = "Upgrading from non-versioned to versioned data. This backend will be unavailable"
    assert says_not_ready(answer(400, words))
    assert not says_not_ready(answer(400, "something else"))
    assert not says_not_ready(answer(500, words))


def test_a_404_without_words_is_about_the_document() -> None:
    assert says_nothing_there(answer(404))
    assert not says_nothing_there(answer(404, "no handler for route"))


def test_only_json_objects_have_members() -> None:
    assert member_of({"data": 1}, "data") == 1
    wrongs: list[object] = [requests.Response(), {}, None]
    for wrong in wrongs:
        with pytest.raises(StoreUnavailableError, match="not understood"):
            member_of(wrong, "data")
