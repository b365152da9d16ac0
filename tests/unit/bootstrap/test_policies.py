import shutil
from pathlib import Path

import pytest

from kme.bootstrap.policies import ROLES, read_policies
from kme.bootstrap.roles import LOGINS
from kme.errors import InputError

SERVICES = Path(__file__).parents[3] / "services"
FILES = {
    "watcher": "watcher/policy.hcl",
    "rest": "rest/policy.hcl",
    "metrics": "metrics/policy.hcl",
    "inspect": "operator/inspect.hcl",
    "admin": "operator/admin.hcl",
    "backup": "operator/backup.hcl",
    "restore": "operator/restore.hcl",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, path in FILES.items():
        shutil.copy(SERVICES / path, tmp_path / f"{name}.hcl")
    return tmp_path


def test_every_role_that_logs_in_has_a_policy(folder: Path) -> None:
    assert set(read_policies(folder)) == set(ROLES) == set(LOGINS)


def test_every_policy_grants_the_token_itself_and_no_wildcard_right(folder: Path) -> None:
    for text in read_policies(folder).values():
        assert 'path "auth/token/renew-self"' in text
        assert 'path "auth/token/revoke-self"' in text
        assert "sudo" not in text
        assert 'path "*"' not in text
        assert 'path "kme/data/*"' not in text


def test_who_may_look_never_reads_a_key(folder: Path) -> None:
    text = read_policies(folder)["inspect"]
    for secret in ("data/inbox", "data/blocks", "data/site"):
        assert secret not in text


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff", b"x" * (1 << 17)])
def test_a_policy_that_is_missing_or_none_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "rest.hcl"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"rest\.hcl"):
        read_policies(folder)
