import stat
from pathlib import Path

import pytest

from kme.bootstrap.shares import (
    OFFLINE_MODE,
    UNSEALER_MODE,
    Found,
    judge,
    read_shares,
    write_shares,
)
from kme.errors import InputError
from kme.secret import Secret

SHARES = [Secret(bytes([n]) * 33) for n in range(1, 4)]


class TestWhatAVaultIsToUs:
    @pytest.mark.parametrize(
        ("is_initialised", "is_marked", "has_shares", "found"),
        [
            (False, False, False, Found.EMPTY),
            (False, True, False, Found.EMPTY),
            (False, True, True, Found.EMPTY),
            (False, False, True, Found.FOREIGN_SHARES),
            (True, True, False, Found.HALF),
            (True, True, True, Found.OWN),
            (True, False, True, Found.OWN),
            (True, False, False, Found.FOREIGN_VAULT),
        ],
    )
    def test_follows_from_the_marker_and_the_shares(
        self, *, is_initialised: bool, is_marked: bool, has_shares: bool, found: Found
    ) -> None:
        judged = judge(is_initialised=is_initialised, is_marked=is_marked, has_shares=has_shares)
        assert judged is found

    def test_shares_are_never_overwritten_unless_our_own_run_was_on_its_way(self) -> None:
        assert judge(is_initialised=False, is_marked=False, has_shares=True) is not Found.EMPTY


class TestAFileOfShares:
    @pytest.mark.parametrize("mode", [UNSEALER_MODE, OFFLINE_MODE])
    def test_is_read_as_it_was_written(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "shares.json"
        write_shares(path, SHARES, mode)
        assert list(read_shares(path)) == SHARES
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent\.json: the unseal shares cannot be read"):
            read_shares(tmp_path / "absent.json")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"shares": []}',
            '{"shares": null}',
            '{"shares": [7]}',
            '{"shares": ["not base64, S3CRET"]}',
            '{"S3CRET": 1}',
            '{"shares": ["S3CRET"',
            "\xff",
        ],
    )
    def test_that_is_something_else_is_refused_without_a_word_of_it(
        self, tmp_path: Path, text: str
    ) -> None:
        path = tmp_path / "shares.json"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match="not a file of unseal shares") as caught:
            read_shares(path)
        assert "S3CRET" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_that_is_far_too_long_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "shares.json"
        path.write_bytes(b'{"shares": ["AAAA"], "x": "' + bytes(1 << 17) + b'"}')
        with pytest.raises(InputError):
            read_shares(path)
