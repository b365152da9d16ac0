from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from kme.errors import IdentifierError, KeyNotFoundError, RequestError, RequestFieldError
from kme.etsi014.messages import KeyRequest
from kme.etsi014.offer import Offer
from kme.etsi014.parse import (
    EXTENSIONS_UNSUPPORTED,
    Wish,
    key_ids_of_body,
    key_ids_of_query,
    key_request_of_body,
    key_request_of_query,
    sae_of_path,
    wish_of,
)
from kme.ids import KeyId, KmeId, SaeId

OFFER = Offer(KmeId("kme-a"))
sae_ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)


@given(sae_ids)
def test_any_sae_id_survives_the_path(name: str) -> None:
    path = f"/api/v1/keys/{quote(name, safe='')}/status"
    assert sae_of_path(path.encode()) == SaeId(name)


@pytest.mark.parametrize("path", [b"/api/v1/keys/a/b/status", b"/api/v1/keys/status", b"/", b""])
def test_a_path_of_another_shape_names_nobody(path: bytes) -> None:
    assert sae_of_path(path) is None


@pytest.mark.parametrize("name", [b"", b"%20", b"%ff", b"%C3%A9", b"a" * 129])
def test_what_is_no_sae_id_is_refused(name: bytes) -> None:
    with pytest.raises(IdentifierError):
        sae_of_path(b"/api/v1/keys/" + name + b"/status")


def test_a_query_may_have_number_and_size() -> None:
    read = key_request_of_query(QueryParams("size=1024&number=3&other=1"))
    assert read == KeyRequest(number=3, size=1024)
    assert key_request_of_query(QueryParams("")) == KeyRequest()


@pytest.mark.parametrize("member", ["additional_slave_SAE_IDs", "extension_mandatory"])
def test_a_query_may_have_nothing_that_would_go_unheard(member: str) -> None:
    with pytest.raises(RequestError, match=f"{member} can only be sent"):
        key_request_of_query(QueryParams({member: "x"}))


@pytest.mark.parametrize("data", [b"", b"  \n", b"{}"])
def test_no_body_is_an_empty_request(data: bytes) -> None:
    assert key_request_of_body(data) == KeyRequest()


@pytest.mark.parametrize(
    ("members", "wish"),
    [
        ({}, Wish(1, 32)),
        ({"number": 128}, Wish(128, 32)),
        ({"size": 8}, Wish(1, 1)),
        ({"size": 65536, "number": 2}, Wish(2, 8192)),
    ],
)
def test_what_is_left_out_is_filled_in(members: dict[str, int], wish: Wish) -> None:
    assert wish_of(KeyRequest(**members), OFFER) == wish  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"number": 0}, r"number must be in 1\.\.128"),
        ({"number": 129}, r"number must be in 1\.\.128"),
        ({"size": 12}, "^size shall be a multiple of 8$"),
        ({"size": -4}, "^size shall be a multiple of 8$"),
        ({"size": 0}, r"size must be in 8\.\.65536 bits"),
        ({"size": 65544}, r"size must be in 8\.\.65536 bits"),
        ({"additional_slave_sae_ids": ["x"] * 9}, "max_SAE_ID_count is 8"),
        ({"extension_mandatory": [{}]}, EXTENSIONS_UNSUPPORTED),
    ],
)
def test_what_is_not_offered_is_refused(members: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        wish_of(KeyRequest(**members), OFFER)


def test_more_slaves_are_read_as_far_as_they_are_offered() -> None:
    request = KeyRequest(additional_slave_sae_ids=["eve", "dave"])
    assert wish_of(request, OFFER).more_slaves == (SaeId("eve"), SaeId("dave"))
    with pytest.raises(RequestError, match="max_SAE_ID_count is 0"):
        wish_of(request, Offer(KmeId("kme-a"), max_more_slaves=0))
    assert wish_of(KeyRequest(additional_slave_sae_ids=[]), OFFER).more_slaves == ()
    with pytest.raises(IdentifierError):
        wish_of(KeyRequest(additional_slave_sae_ids=["a b"]), OFFER)


def test_unsupported_extensions_are_named_within_bounds() -> None:
    extensions = [{f"abc_{i}" + "x" * 1000: i} for i in range(100)]
    with pytest.raises(RequestFieldError) as caught:
        wish_of(KeyRequest(extension_mandatory=extensions), OFFER)
    assert len(caught.value.fields) == 8
    assert all(len(str(field)) < 200 for field in caught.value.fields)


def test_key_ids_keep_their_order() -> None:
    ids = [KeyId(n, 8, 32, n * 7) for n in (3, 1, 2)]
    body = "".join(["[", ",".join(f'{{"key_ID":"{key_id}"}}' for key_id in ids), "]"])
    assert key_ids_of_body(f'{{"key_IDs":{body}}}'.encode(), OFFER) == ids
    assert key_ids_of_query(QueryParams({"key_ID": str(ids[0])})) == ids[:1]


def test_a_uuid_of_another_kind_is_not_found() -> None:
    with pytest.raises(KeyNotFoundError):
        key_ids_of_query(QueryParams("key_ID=bc490419-7d60-487f-adc1-4ddcc177c139"))


def test_what_is_no_uuid_is_a_bad_request() -> None:
    with pytest.raises(IdentifierError, match="UUID"):
        key_ids_of_query(QueryParams("key_ID=7"))


def test_more_ids_than_offered_are_refused() -> None:
    body = b'{"key_IDs":[' + b",".join([b'{"key_ID":"x"}'] * 129) + b"]}"
    with pytest.raises(RequestError, match="at most 128"):
        key_ids_of_body(body, OFFER)
