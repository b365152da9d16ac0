"""kme.errors: one tree, stable codes, messages fit for strangers."""

from pathlib import Path

from kme import errors
from kme.errors import EpochFileError, KmeError, StageError


def _all(root: type[KmeError]) -> list[type[KmeError]]:
    return [root, *(below for child in root.__subclasses__() for below in _all(child))]


def test_every_error_of_the_tree_has_a_code_of_its_own() -> None:
    own = [kind for kind in _all(KmeError) if kind.__module__ == "kme.errors"]
    assert len({kind.code for kind in own}) == len(own) > 15


def test_the_drawing_of_the_tree_names_every_error() -> None:
    drawing = errors.__doc__ or ""
    for kind in _all(KmeError):
        if kind.__module__ == "kme.errors":
            assert kind.__name__ in drawing


def test_an_epoch_files_error_names_file_and_offset() -> None:
    error = EpochFileError(Path("t7/00004f87"), 12, "has no key")
    assert str(error) == "t7/00004f87: byte 12: has no key"
    assert error.diagnostics() == {
        "code": "epoch_file",
        "message": "has no key",
        "path": "t7/00004f87",
        "offset_bytes": 12,
    }


def test_a_stages_error_begins_with_the_stage() -> None:
    assert str(StageError("pfind", "no peak; record longer")) == "pfind: no peak; record longer"
