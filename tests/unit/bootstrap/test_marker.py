from pathlib import Path

from kme.bootstrap.marker import Marker, digest_of


def test_a_marker_stands_for_just_what_was_written(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "first")
    one, other = digest_of({"host": "a"}), digest_of({"host": "b"})
    assert not marker.stands_for(one)
    marker.write(one)
    assert marker.stands_for(one)
    assert not marker.stands_for(other)


def test_a_spoilt_marker_stands_for_nothing(tmp_path: Path) -> None:
    marker = Marker(tmp_path / "first")
    marker.path.write_bytes(b"\xff\xfe")
    assert not marker.stands_for(digest_of(1))


def test_the_order_of_members_does_not_count() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of(["a", "b"]) != digest_of(["b", "a"])
