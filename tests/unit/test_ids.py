"""kme.ids: the names of things, read and written."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kme.errors import IdentifierError
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId

VERSION_4 = "919108f7-52d1-4320-9bac-f847db4148a8"

KEY_IDS = st.builds(
    KeyId,
    st.integers(0, 2**34 - 1),
    st.integers(0, 2**13 - 1),
    st.integers(1, 2**13),
    st.integers(0, 2**62 - 1),
)


@given(KEY_IDS)
def test_a_key_id_reads_back_as_it_was_written(key_id: KeyId) -> None:
    assert KeyId.parse(str(key_id)) == key_id
    assert KeyId.parse(str(key_id).upper()) == key_id


@given(KEY_IDS)
def test_a_key_id_is_a_lower_case_uuid_of_version_8(key_id: KeyId) -> None:
    parsed = uuid.UUID(str(key_id))
    assert str(parsed) == str(key_id)
    assert parsed.version == 8
    assert parsed.variant == uuid.RFC_4122


@given(KEY_IDS, st.sampled_from(range(128)))
def test_a_flipped_bit_makes_another_key_id_or_none(key_id: KeyId, bit: int) -> None:
    flipped = str(uuid.UUID(int=uuid.UUID(str(key_id)).int ^ 1 << bit))
    is_version_or_variant = bit in {76, 77, 78, 79, 62, 63}
    if is_version_or_variant:
        with pytest.raises(IdentifierError):
            KeyId.parse(flipped)
    else:
        assert KeyId.parse(flipped) != key_id


@pytest.mark.parametrize(
    "text", ["", "no", VERSION_4, "{" + VERSION_4 + "}", "0" * 32, "\u0661" * 36]
)
def test_what_is_no_key_id_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError):
        KeyId.parse(text)


@pytest.mark.parametrize(
    "fields",
    [(-1, 0, 1, 0), (2**34, 0, 1, 0), (0, 2**13, 1, 0), (0, 0, 0, 0), (0, 0, 8193, 0),
     (0, 0, 1, 2**62)],
)  # fmt: skip
def test_fields_of_a_key_id_stay_in_their_bits(fields: tuple[int, int, int, int]) -> None:
    with pytest.raises(IdentifierError):
        KeyId(*fields)


def test_a_key_id_says_which_bytes_and_granules_the_key_has() -> None:
    key_id = KeyId(block_number=3, offset_granules=8, n_bytes=33, tag=0)
    assert key_id.offset_bytes == 64
    assert key_id.n_granules == 5


@pytest.mark.parametrize("text", ["kme-a", "KME.1_x", "9", "a" * 63])
def test_kme_ids_are_short_plain_names(text: str) -> None:
    assert KmeId(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a b", "a/b", "a" * 64, "k\u00e4", "a\n"])
def test_what_is_no_kme_id_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(IdentifierError, match="is not a KME id: 1 to 63"):
        KmeId(text)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128))
def test_an_sae_id_is_any_visible_ascii(text: str) -> None:
    assert SaeId(text) == text


@pytest.mark.parametrize("text", ["", "a b", "x" * 129, "a\x00", "\u00e9"])
def test_what_is_no_sae_id_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError, match="SAE id"):
        SaeId(text)


def test_a_source_id_has_lower_case_letters_only() -> None:
    assert SourceId("sim-1") == "sim-1"
    with pytest.raises(IdentifierError, match="source id"):
        SourceId("Sim")


@given(st.integers(0, 2**32 - 1))
def test_an_epoch_names_its_file_and_back(number: int) -> None:
    assert Epoch.from_file_name(Epoch(number).file_name) == Epoch(number)
    assert str(Epoch(number)) == f"{number:08x}"


@pytest.mark.parametrize("name", ["", "4f86", "0000004G", "0000004F", "000000004", ".partial"])
def test_what_names_no_epoch_is_refused(name: str) -> None:
    with pytest.raises(IdentifierError):
        Epoch.from_file_name(name)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_an_epoch_has_32_bits(number: int) -> None:
    with pytest.raises(IdentifierError):
        Epoch(number)


@given(st.integers(2**17, 2**32 - 1), st.integers(-(2**16) + 1, 2**16 - 1))
def test_a_local_epoch_extends_to_the_nearest_universal_one(near: int, ahead: int) -> None:
    universal = (near + ahead) % 2**32
    assert Epoch(universal % 2**17).extended(Epoch(near)) == Epoch(universal)


def test_a_universal_epoch_is_not_extended() -> None:
    assert Epoch(0xC74E4F86).extended(Epoch(5)) == Epoch(0xC74E4F86)


def test_the_epoch_of_a_moment_counts_stretches_of_2_to_the_29_ns() -> None:
    assert Epoch.at_time(0.0) == Epoch(0)
    assert Epoch.at_time(0.536870912 * 1000.5) == Epoch(1000)
