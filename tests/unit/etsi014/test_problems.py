"""Every exception has one status and one body."""

import inspect
from typing import Any

import pytest

from kme import errors
from kme.errors import KmeError
from kme.etsi014.messages import Error
from kme.etsi014.problems import KEYS_NOT_FOUND, RULES, problem_of

STATUSES = {
    "NotEntitledError": 401,
    "IdentityError": 401,
    "HandshakeError": 401,
    "KeyNotFoundError": 400,
    "OverlapError": 400,
    "RequestError": 400,
    "RequestFieldError": 400,
    "RefusedError": 400,
    "InputError": 400,
    "IdentifierError": 400,
    "EpochFileError": 500,
    "SettingsError": 500,
    "CredentialError": 500,
    "StageError": 500,
    "KmeError": 500,
    "ConflictError": 503,
    "UnavailableError": 503,
    "OutOfKeysError": 503,
    "PeerUnavailableError": 503,
    "StoreUnavailableError": 503,
    "InboxFullError": 503,
    "IntegrityError": 503,
    "SealError": 503,
    "PairingError": 503,
    "RollbackError": 503,
}
CLASSES = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, KmeError)
}


def example(kind: type[KmeError]) -> KmeError:
    """Return an exception of a class, whatever its parameters."""
    names = [p for p in inspect.signature(kind).parameters if p != "details"]
    values: dict[str, Any] = {"offset_bytes": 0, "fields": [{"number": "is wrong"}]}
    return kind(**{name: values.get(name, "what is wrong") for name in names})


@pytest.mark.parametrize("name", CLASSES)
def test_every_exception_there_is_has_its_status(name: str) -> None:
    problem = problem_of(example(CLASSES[name]))
    assert problem.status == STATUSES[name]
    assert ("Retry-After" in problem.headers) == (problem.status == 503)
    response = problem.response()
    assert response.status_code == problem.status
    assert Error.parse(bytes(response.body)).message == problem.message


@pytest.mark.parametrize("name", ["KeyNotFoundError", "OverlapError"])
def test_a_key_that_is_not_there_has_the_prescribed_text(name: str) -> None:
    assert problem_of(CLASSES[name]("anything")).message == KEYS_NOT_FOUND


def test_an_overlap_looks_like_any_unknown_key() -> None:
    overlap, unknown = (
        problem_of(CLASSES[name]("x")) for name in ("OverlapError", "KeyNotFoundError")
    )
    assert overlap == unknown


@pytest.mark.parametrize(
    "name", [name for name, status in STATUSES.items() if status == 500] + ["IntegrityError"]
)
def test_faults_of_ours_are_not_explained_to_strangers(name: str) -> None:
    assert "what is wrong" not in problem_of(example(CLASSES[name])).message


def test_no_rule_stands_behind_one_that_covers_it() -> None:
    for i, rule in enumerate(RULES):
        assert not any(issubclass(rule.error, earlier.error) for earlier in RULES[:i])
