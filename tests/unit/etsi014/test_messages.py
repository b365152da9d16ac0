"""Wire names and types, against the standard's own examples."""

import json

import pytest

from kme.errors import RequestFieldError
from kme.etsi014.messages import (
    Error,
    KeyContainer,
    KeyEntry,
    KeyIdEntry,
    KeyIds,
    KeyRequest,
    Status,
)

STATUS_EXAMPLE = {
    "source_KME_ID": "AAAABBBBCCCCDDDD",
    "target_KME_ID": "EEEEFFFFGGGGHHHH",
    "master_SAE_ID": "IIIIJJJJKKKKLLLL",
    "slave_SAE_ID": "MMMMNNNNOOOOPPPP",
    "key_size": 352,
    "stored_key_count": 25000,
    "max_key_count": 100000,
    "max_key_per_request": 128,
    "max_key_size": 1024,
    "min_key_size": 64,
    "max_SAE_ID_count": 0,
}
CONTAINER_EXAMPLE = {
    "keys": [
        {
            "key_ID": "bc490419-7d60-487f-adc1-4ddcc177c139",
            "key": "wHHVxRwDJs3/bXd38GHP3oe4svTuRpZS0yCC7x4Ly+s=",
        },
        {
            "key_ID": "0a782fb5-3434-48fe-aa4d-14f41d46cf92",
            "key": "OeGMPxh1+2RpJpNCYixWHFLYRubpOKCw94FcCI7VdJA=",
        },
    ]
}


def test_6_1_the_standards_status_is_read_and_written() -> None:
    status = Status.parse(json.dumps(STATUS_EXAMPLE).encode())
    assert (status.key_size, status.max_sae_id_count) == (352, 0)
    assert json.loads(status.to_json()) == STATUS_EXAMPLE


def test_6_2_a_key_request_is_read_with_all_its_members() -> None:
    request = KeyRequest.parse(
        b'{"number": 20, "size": 3840, "additional_slave_SAE_IDs": ["ABCDEFG", "HIJKLMN"],'
        b' "extension_mandatory": [{"abc_route_type": "direct"},'
        b' {"abc_transfer_method": "qkd"}], "extension_optional": [{"abc_max_age": 30000}]}'
    )
    assert (request.number, request.size) == (20, 3840)
    assert request.additional_slave_sae_ids == ["ABCDEFG", "HIJKLMN"]
    assert request.extension_mandatory == [
        {"abc_route_type": "direct"},
        {"abc_transfer_method": "qkd"},
    ]
    assert request.extension_optional == [{"abc_max_age": 30000}]


def test_6_2_an_empty_request_is_written_without_members() -> None:
    assert KeyRequest().to_json() == b"{}"
    assert KeyRequest(number=3).to_json() == b'{"number":3}'


def test_6_3_the_standards_container_is_read_and_written() -> None:
    container = KeyContainer.parse(json.dumps(CONTAINER_EXAMPLE).encode())
    assert json.loads(container.to_json()) == CONTAINER_EXAMPLE
    assert b" " not in container.to_json()
    assert b"null" not in container.to_json()


def test_6_3_a_key_does_not_print() -> None:
    entry = KeyEntry(key_id="id", key="c2VjcmV0")
    assert "c2VjcmV0" not in repr(KeyContainer(keys=[entry]))


def test_6_4_the_standards_key_ids_are_read_and_written() -> None:
    example = {"key_IDs": [{"key_ID": key["key_ID"]} for key in CONTAINER_EXAMPLE["keys"]]}
    ids = KeyIds.parse(json.dumps(example).encode())
    assert ids.key_ids[1] == KeyIdEntry(key_id="0a782fb5-3434-48fe-aa4d-14f41d46cf92")
    assert json.loads(ids.to_json()) == example


def test_6_5_the_standards_error_is_read_and_written() -> None:
    example = {
        "message": "not all extension_mandatory parameters are supported",
        "details": [{"extension_mandatory_unsupported": "abc_route_type is not supported"}],
    }
    assert json.loads(Error.parse(json.dumps(example).encode()).to_json()) == example
    assert Error(message="x").to_json() == b'{"message":"x"}'


def test_members_nobody_knows_are_ignored() -> None:
    assert KeyRequest.parse(b'{"vendor": [1], "number": 2}') == KeyRequest(number=2)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"number": "1"}', "number"),
        (b'{"number": true}', "number"),
        (b'{"number": 1.0}', "number"),
        (b'{"extension_mandatory": {}}', "extension_mandatory"),
        (b'{"additional_slave_SAE_IDs": [1]}', "additional_slave_SAE_IDs.0"),
        (b'{"number": 1' + b"0" * 5000 + b"}", "body"),
    ],
)
def test_what_is_wrong_is_told_by_place(data: bytes, place: str) -> None:
    with pytest.raises(RequestFieldError) as caught:
        KeyRequest.parse(data)
    assert any(place in field for field in caught.value.fields)


def test_an_error_repeats_nothing_of_the_body() -> None:
    with pytest.raises(RequestFieldError) as caught:
        KeyContainer.parse(b'{"keys": [{"key_ID": 5, "key": ["c2VjcmV0"]}]}')
    assert "c2VjcmV0" not in f"{caught.value} {caught.value.fields} {caught.value.diagnostics()}"
    assert caught.value.__cause__ is None


def test_an_error_names_a_bounded_number_of_places() -> None:
    data = json.dumps({"key_IDs": [{"key_ID": i} for i in range(1000)]}).encode()
    with pytest.raises(RequestFieldError) as caught:
        KeyIds.parse(data)
    assert len(caught.value.fields) <= 8
