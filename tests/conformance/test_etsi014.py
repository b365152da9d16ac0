"""ETSI GS QKD 014 V1.1.1, clause by clause, over real TLS and the real supply.

The number in a test's name is the clause; bodies marked as the standard's are
its own examples.
"""

import base64
import re
import uuid
from typing import Any

import httpx
import pytest

from kme.ids import SaeId
from kme.pki.site import SitePki
from kme.store.records import SourceClass
from sae_interface import SaeInterface, error_of, running_interface
from supply_pair import ALICE, BOB, CAROL, EVE, A

NOT_FOUND = "one or more keys specified are not found on KME"
STATUS_MEMBERS = {
    "source_KME_ID": str,
    "target_KME_ID": str,
    "master_SAE_ID": str,
    "slave_SAE_ID": str,
    "key_size": int,
    "stored_key_count": int,
    "max_key_count": int,
    "max_key_per_request": int,
    "max_key_size": int,
    "min_key_size": int,
    "max_SAE_ID_count": int,
}
INTEGERS = [name for name, kind in STATUS_MEMBERS.items() if kind is int]


def enc(client: httpx.Client, body: dict[str, Any] | None = None, slave: str = "bob") -> Any:
    response = client.post(f"/api/v1/keys/{slave}/enc_keys", json=body or {})
    assert response.status_code == 200, response.text
    return response.json()["keys"]


def dec(client: httpx.Client, *key_ids: str, master: str = "alice") -> httpx.Response:
    body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
    return client.post(f"/api/v1/keys/{master}/dec_keys", json=body)


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return error_of(response)


class TestTransport:
    def test_5_1_answers_are_json_over_http_1_1(self, alice: httpx.Client) -> None:
        response = alice.get("/api/v1/keys/bob/status")
        assert response.http_version == "HTTP/1.1"
        assert response.headers["content-type"] == "application/json"

    def test_5_1_answers_with_keys_are_not_to_be_cached(self, alice: httpx.Client) -> None:
        response = alice.get("/api/v1/keys/bob/enc_keys")
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers

    def test_5_1_connections_stay_open(self, alice: httpx.Client) -> None:
        streams = {
            id(alice.get("/api/v1/keys/bob/status").extensions["network_stream"]) for _ in range(3)
        }
        assert len(streams) == 1

    def test_5_1_sae_ids_are_url_encoded_in_paths(self, alice: httpx.Client) -> None:
        response = alice.get("/api/v1/keys/%62o%62/status")
        assert response.json()["slave_SAE_ID"] == "bob"

    def test_5_1_an_encoded_slash_belongs_to_the_sae_id(self, alice: httpx.Client) -> None:
        error = refused(alice.get("/api/v1/keys/a%2Fb/status"))
        assert "a/b" in error["message"]

    def test_5_1_a_plain_slash_does_not(self, alice: httpx.Client) -> None:
        refused(alice.get("/api/v1/keys/a/b/status"), 404)

    @pytest.mark.parametrize("name", ["%00", "a%20b", "%C3%BC", "", "a" * 129])
    def test_5_1_what_is_no_sae_id_is_a_bad_request(self, alice: httpx.Client, name: str) -> None:
        refused(alice.get(f"/api/v1/keys/{name}/status"))

    def test_5_1_an_unknown_path_has_an_error_body(self, alice: httpx.Client) -> None:
        refused(alice.get("/api/v1/keys/bob/nothing"), 404)
        refused(alice.get("/"), 404)

    @pytest.mark.parametrize(
        ("verb", "method", "allowed"),
        [
            ("PUT", "enc_keys", "GET, POST"),
            ("DELETE", "dec_keys", "GET, POST"),
            ("POST", "status", "GET"),
        ],
    )
    def test_5_1_a_wrong_verb_is_told_the_right_ones(
        self, alice: httpx.Client, verb: str, method: str, allowed: str
    ) -> None:
        response = alice.request(verb, f"/api/v1/keys/bob/{method}")
        refused(response, 405)
        assert response.headers["allow"] == allowed


class TestStatus:
    def test_6_1_status_has_its_eleven_members(self, alice: httpx.Client) -> None:
        status = alice.get("/api/v1/keys/bob/status").json()
        assert set(status) == {*STATUS_MEMBERS, "status_extension"}
        for name, kind in STATUS_MEMBERS.items():
            assert type(status[name]) is kind, name

    def test_5_2_status_names_who_asks_and_for_whom(self, alice: httpx.Client) -> None:
        status = alice.get("/api/v1/keys/bob/status").json()
        assert (status["source_KME_ID"], status["target_KME_ID"]) == ("kme-a", "kme-b")
        assert (status["master_SAE_ID"], status["slave_SAE_ID"]) == ("alice", "bob")

    def test_6_1_its_figures_fit_each_other_and_32_bits(self, alice: httpx.Client) -> None:
        status = alice.get("/api/v1/keys/bob/status").json()
        assert all(0 <= status[name] < 2**31 for name in INTEGERS)
        assert 0 < status["stored_key_count"] <= status["max_key_count"]
        assert status["min_key_size"] <= status["key_size"] <= status["max_key_size"]
        assert (status["key_size"], status["min_key_size"]) == (256, 8)
        assert status["max_key_size"] == 65536
        assert status["max_SAE_ID_count"] == 8

    def test_5_2_status_takes_no_key(self, alice: httpx.Client) -> None:
        counts = {alice.get("/api/v1/keys/bob/status").json()["stored_key_count"] for _ in range(3)}
        assert len(counts) == 1

    def test_5_2_as_many_keys_as_status_says_can_be_had(self, pki: SitePki) -> None:
        with running_interface(pki) as interface:
            interface.add_blocks(A, 2, 640)
            with interface.client(ALICE) as alice:
                status = alice.get("/api/v1/keys/bob/status").json()
                n_keys = status["stored_key_count"]
                assert n_keys > 0
                assert len(enc(alice, {"number": n_keys})) == n_keys
                status = alice.get("/api/v1/keys/bob/status").json()
                assert status["stored_key_count"] == 0
                refused(alice.get("/api/v1/keys/bob/enc_keys"), 503)

    def test_6_1_the_largest_size_told_is_one_that_can_be_had(self, pki: SitePki) -> None:
        with running_interface(pki) as interface:
            interface.add_blocks(A, 1, 640)
            with interface.client(ALICE) as alice:
                size = alice.get("/api/v1/keys/bob/status").json()["max_key_size"]
                assert size < 640 * 8
                [key] = enc(alice, {"size": size})
                assert len(base64.b64decode(key["key"])) * 8 == size

    def test_6_1_the_count_never_exceeds_its_bound(self, pki: SitePki) -> None:
        with running_interface(pki, max_key_count=128) as interface:
            interface.add_blocks(A, 1)
            with interface.client(ALICE) as alice:
                status = alice.get("/api/v1/keys/bob/status").json()
        assert status["stored_key_count"] == status["max_key_count"] == 128

    def test_6_1_an_empty_stock_is_a_status_and_no_error(self, pki: SitePki) -> None:
        with running_interface(pki) as interface, interface.client(ALICE) as alice:
            status = alice.get("/api/v1/keys/bob/status").json()
        assert status["stored_key_count"] == 0
        assert status["min_key_size"] <= status["key_size"] <= status["max_key_size"]
        assert status["status_extension"] == {"kme_source": "none"}

    def test_6_1_random_bits_do_not_pass_for_quantum_key(self, pki: SitePki) -> None:
        with running_interface(pki) as interface, interface.client(ALICE) as alice:
            sources = []
            for source_class in (SourceClass.RANDOM, SourceClass.QKD):
                interface.thread.call(interface.pair.blocks.add(A, 1024, source_class))
                status = alice.get("/api/v1/keys/bob/status").json()
                sources.append(status["status_extension"]["kme_source"])
        assert sources[0] == "random"
        assert sources[1] in {"qkd", "mixed"}

    def test_5_2_an_unknown_slave_is_a_bad_request(self, alice: httpx.Client) -> None:
        refused(alice.get("/api/v1/keys/nobody/status"))


class TestGetKey:
    def test_5_3_without_a_wish_one_key_of_the_default_size_comes(
        self, alice: httpx.Client
    ) -> None:
        for response in (
            alice.get("/api/v1/keys/bob/enc_keys"),
            alice.post("/api/v1/keys/bob/enc_keys"),
            alice.post("/api/v1/keys/bob/enc_keys", json={}),
            alice.post("/api/v1/keys/bob/enc_keys", content=b" \r\n"),
        ):
            assert response.status_code == 200
            [key] = response.json()["keys"]
            assert len(base64.b64decode(key["key"], validate=True)) == 32

    def test_5_3_get_takes_number_and_size(self, alice: httpx.Client) -> None:
        """The standard's example: ``?number=3&size=1024``."""
        keys = alice.get("/api/v1/keys/bob/enc_keys?number=3&size=1024").json()["keys"]
        assert [len(base64.b64decode(key["key"])) for key in keys] == [128] * 3

    def test_6_2_the_standards_own_request_is_understood(self, alice: httpx.Client) -> None:
        """The standard's example, but for its additional slaves and its mandatory extension."""
        body = {
            "number": 20,
            "size": 3840,
            "extension_optional": [{"abc_preferred_route": "direct"}, {"def_x": {"y": [1]}}],
        }
        keys = enc(alice, body)
        assert len({key["key_ID"] for key in keys}) == 20
        assert {len(base64.b64decode(key["key"])) for key in keys} == {480}

    def test_6_3_a_container_holds_ids_and_base64_and_nothing_null(
        self, alice: httpx.Client
    ) -> None:
        response = alice.post("/api/v1/keys/bob/enc_keys", json={"number": 2})
        container = response.json()
        assert set(container) == {"keys"}
        for key in container["keys"]:
            assert set(key) == {"key_ID", "key"}
            assert str(uuid.UUID(key["key_ID"])) == key["key_ID"]
            assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", key["key"])
        assert b" " not in response.content

    def test_5_3_every_key_and_every_id_is_new(self, alice: httpx.Client) -> None:
        keys = enc(alice, {"number": 128}) + enc(alice, {"number": 128})
        assert len({key["key_ID"] for key in keys}) == 256
        assert len({key["key"] for key in keys}) == 256

    @pytest.mark.parametrize("size", [8, 64, 352, 65536])
    def test_6_2_sizes_are_bits(self, alice: httpx.Client, size: int) -> None:
        [key] = enc(alice, {"size": size})
        assert len(base64.b64decode(key["key"])) * 8 == size

    @pytest.mark.parametrize("size", [1, 7, 257, 1023])
    def test_6_2_a_size_that_is_no_multiple_of_8_has_its_own_text(
        self, alice: httpx.Client, size: int
    ) -> None:
        by_post = refused(alice.post("/api/v1/keys/bob/enc_keys", json={"size": size}))
        by_get = refused(alice.get(f"/api/v1/keys/bob/enc_keys?size={size}"))
        assert by_post["message"] == by_get["message"] == "size shall be a multiple of 8"

    @pytest.mark.parametrize("size", [0, 65544, -8, 1 << 40])
    def test_6_2_a_size_out_of_range_is_refused(self, alice: httpx.Client, size: int) -> None:
        refused(alice.post("/api/v1/keys/bob/enc_keys", json={"size": size}))

    @pytest.mark.parametrize("number", [0, -1, 129, 1 << 70])
    def test_6_2_a_number_out_of_range_is_refused(self, alice: httpx.Client, number: int) -> None:
        refused(alice.post("/api/v1/keys/bob/enc_keys", json={"number": number}))

    def test_6_2_a_mandatory_extension_is_refused_by_name(self, alice: httpx.Client) -> None:
        """The standard's example of an unsupported extension, text and details."""
        body = {"extension_mandatory": [{"abc_route_type": "direct"}]}
        assert refused(alice.post("/api/v1/keys/bob/enc_keys", json=body)) == {
            "message": "not all extension_mandatory parameters are supported",
            "details": [{"extension_mandatory_unsupported": "abc_route_type is not supported"}],
        }

    def test_6_2_an_empty_list_of_mandatory_extensions_is_none(self, alice: httpx.Client) -> None:
        enc(alice, {"extension_mandatory": [], "additional_slave_SAE_IDs": []})

    def test_6_2_more_slaves_than_max_sae_id_count_are_refused(self, alice: httpx.Client) -> None:
        body = {"additional_slave_SAE_IDs": [f"sae-{serial}" for serial in range(9)]}
        error = refused(alice.post("/api/v1/keys/bob/enc_keys", json=body))
        assert "max_SAE_ID_count is 8" in error["message"]

    @pytest.mark.parametrize(
        "names",
        [["nobody"], ["bob"], ["eve", "eve"], ["alice"], ["a b"], [""], [1], "eve", {"eve": 1}],
    )
    def test_6_2_additional_slaves_that_make_no_sense_are_refused(
        self, alice: httpx.Client, names: Any
    ) -> None:
        body = {"additional_slave_SAE_IDs": names}
        refused(alice.post("/api/v1/keys/bob/enc_keys", json=body))

    def test_6_2_the_same_keys_go_to_every_slave_that_is_named_once_each(
        self, alice: httpx.Client, bob: httpx.Client, eve: httpx.Client, carol: httpx.Client
    ) -> None:
        """Annex B: at the first slave's KME (eve) and at the master's (carol)."""
        body = {"number": 3, "additional_slave_SAE_IDs": ["eve", "carol"]}
        given = enc(alice, body)
        wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in given]}
        for slave in (eve, bob, carol):
            drawn = slave.post("/api/v1/keys/alice/dec_keys", json=wanted)
            assert drawn.status_code == 200
            assert drawn.json()["keys"] == given
        for slave in (bob, carol, eve):
            again = refused(slave.post("/api/v1/keys/alice/dec_keys", json=wanted))
            assert again["message"] == "one or more keys specified are not found on KME"

    def test_6_2_a_slave_that_is_not_named_gets_401(
        self, alice: httpx.Client, eve: httpx.Client, carol: httpx.Client
    ) -> None:
        for more, other in (([], eve), (["carol"], eve), (["eve"], carol)):
            (key,) = enc(alice, {"additional_slave_SAE_IDs": more})
            refusal = other.get(f"/api/v1/keys/alice/dec_keys?key_ID={key['key_ID']}")
            assert refusal.status_code == (401 if other is eve else 400)

    @pytest.mark.parametrize(
        "query",
        [
            "extension_mandatory=x",
            "additional_slave_SAE_IDs=eve",
            "number=1&number=2",
            "number=",
            "number=+1",
            "size=2e3",
            "number=%D9%A3",
            "number=9999999999999999999999",
        ],
    )
    def test_5_3_what_get_cannot_carry_is_refused(self, alice: httpx.Client, query: str) -> None:
        refused(alice.get(f"/api/v1/keys/bob/enc_keys?{query}"))

    def test_5_3_unknown_members_and_parameters_are_tolerated(self, alice: httpx.Client) -> None:
        enc(alice, {"number": 1, "vendor_thing": {"deep": [None]}, "key_ids": "x"})
        assert alice.get("/api/v1/keys/bob/enc_keys?vendor=1").status_code == 200

    def test_5_3_null_is_as_good_as_absent(self, alice: httpx.Client) -> None:
        enc(alice, dict.fromkeys(["number", "size", "extension_mandatory"], None))

    def test_5_3_a_body_of_a_get_is_ignored(self, alice: httpx.Client) -> None:
        response = alice.request("GET", "/api/v1/keys/bob/enc_keys", content=b'{"number": 3')
        assert len(response.json()["keys"]) == 1

    def test_5_3_the_content_type_is_not_insisted_on(self, alice: httpx.Client) -> None:
        response = alice.post(
            "/api/v1/keys/bob/enc_keys",
            content=b'{"number": 2}',
            headers={"Content-Type": "text/plain"},
        )
        assert len(response.json()["keys"]) == 2

    @pytest.mark.parametrize(
        "content",
        [b"{", b"[]", b"7", b'{"number": "3"}', b'{"number": 1.5}', b'{"size": true}', b"\xff"],
    )
    def test_5_3_what_is_no_key_request_is_refused(
        self, alice: httpx.Client, content: bytes
    ) -> None:
        error = refused(alice.post("/api/v1/keys/bob/enc_keys", content=content))
        assert "KeyRequest" in error["message"]

    def test_5_3_a_body_that_is_too_long_is_refused_unread(self, alice: httpx.Client) -> None:
        content = b'{"vendor":"' + b"x" * 200_000 + b'"}'
        refused(alice.post("/api/v1/keys/bob/enc_keys", content=content), 413)
        enc(alice)

    @pytest.mark.parametrize("slave", ["nobody", "kme-b"])
    def test_5_3_an_unknown_slave_is_a_bad_request(self, alice: httpx.Client, slave: str) -> None:
        refused(alice.get(f"/api/v1/keys/{slave}/enc_keys"))

    def test_5_3_too_few_keys_are_none_at_all(self, pki: SitePki) -> None:
        with running_interface(pki) as interface, interface.client(ALICE) as alice:
            interface.add_blocks(A, 1, 64 + 3 * 32)
            response = alice.get("/api/v1/keys/bob/enc_keys?number=4")
            refused(response, 503)
            assert int(response.headers["retry-after"]) > 0
            assert len(enc(alice, {"number": 3})) == 3

    def test_5_3_no_key_comes_while_the_other_kme_is_down(self, pki: SitePki) -> None:
        with running_interface(pki) as interface, interface.client(ALICE) as alice:
            interface.add_blocks(A, 1)
            interface.pair.liveness[A].is_alive = False
            response = alice.get("/api/v1/keys/bob/enc_keys")
            refused(response, 503)
            assert "retry-after" in response.headers


class TestGetKeyWithKeyIds:
    def test_5_4_both_ends_get_the_same_keys_in_the_order_asked_for(
        self, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        keys = enc(alice, {"number": 5})[::-1]
        response = dec(bob, *(key["key_ID"] for key in keys))
        assert response.status_code == 200
        assert response.json() == {"keys": keys}

    def test_5_4_get_takes_one_id(self, alice: httpx.Client, bob: httpx.Client) -> None:
        [key] = enc(alice)
        response = bob.get(f"/api/v1/keys/alice/dec_keys?key_ID={key['key_ID']}")
        assert response.json() == {"keys": [key]}

    def test_5_4_ids_may_be_written_in_upper_case(
        self, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        [key] = enc(alice)
        [same] = dec(bob, key["key_ID"].upper()).json()["keys"]
        assert same == key

    def test_5_4_a_key_is_never_given_twice(self, alice: httpx.Client, bob: httpx.Client) -> None:
        [key] = enc(alice)
        assert dec(bob, key["key_ID"]).status_code == 200
        assert refused(dec(bob, key["key_ID"]))["message"] == NOT_FOUND

    def test_6_4_the_standards_own_ids_are_not_found(self, bob: httpx.Client) -> None:
        """The standard's example of key IDs, with extensions."""
        body = {
            "key_IDs": [
                {"key_ID": "bc490419-7d60-487f-adc1-4ddcc177c139", "key_ID_extension": {}},
                {"key_ID": "0a782fb5-3434-48fe-aa4d-14f41d46cf92"},
            ],
            "key_IDs_extension": {"vendor_x": 1},
        }
        response = bob.post("/api/v1/keys/alice/dec_keys", json=body)
        assert refused(response)["message"] == NOT_FOUND

    def test_5_4_one_unknown_id_spoils_none_of_the_others(
        self, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        first, second = enc(alice, {"number": 2})
        assert dec(bob, second["key_ID"]).status_code == 200
        error = refused(dec(bob, first["key_ID"], second["key_ID"]))
        assert error["message"] == NOT_FOUND
        assert dec(bob, first["key_ID"]).json()["keys"] == [first]

    def test_5_4_another_slave_is_unauthorized_and_takes_nothing(
        self, alice: httpx.Client, bob: httpx.Client, eve: httpx.Client
    ) -> None:
        key, other = enc(alice, {"number": 2})
        refused(dec(eve, key["key_ID"]), 401)
        refused(dec(eve, key["key_ID"], other["key_ID"]), 401)
        assert dec(bob, key["key_ID"]).status_code == 200

    def test_5_4_a_foreign_id_among_own_ones_rejects_the_request(
        self, alice: httpx.Client, bob: httpx.Client, eve: httpx.Client
    ) -> None:
        [own] = enc(alice, slave="eve")
        [foreign] = enc(alice, slave="bob")
        refused(dec(eve, own["key_ID"], foreign["key_ID"]), 401)
        assert dec(eve, own["key_ID"]).json()["keys"] == [own]

    def test_5_4_the_master_itself_gets_nothing(
        self, interface: SaeInterface, alice: httpx.Client
    ) -> None:
        [key] = enc(alice)
        assert dec(alice, key["key_ID"]).status_code in {400, 401}
        assert dec(alice, key["key_ID"], master="bob").status_code in {400, 401}

    def test_5_4_the_path_must_name_the_master(
        self, interface: SaeInterface, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        [key] = enc(alice)
        assert dec(bob, key["key_ID"], master=str(CAROL)).status_code in {400, 401}
        assert dec(bob, key["key_ID"]).status_code == 200

    def test_5_4_an_id_listed_twice_is_refused(
        self, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        [key] = enc(alice)
        refused(dec(bob, key["key_ID"], key["key_ID"]))
        assert dec(bob, key["key_ID"]).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"key_IDs": []},
            {"key_IDs": None},
            {"key_IDs": "bc490419-7d60-487f-adc1-4ddcc177c139"},
            {"key_IDs": [{}]},
            {"key_IDs": [{"key_ID": 7}]},
            {"key_IDs": [{"key_ID": "x"}]},
            {"key_IDs": [{"key_ID": "bc4904197d60487fadc14ddcc177c139"}]},
            {"key_IDs": [{"key_ID": str(uuid.UUID(int=i))} for i in range(129)]},
        ],
    )
    def test_6_4_what_are_no_key_ids_is_refused(
        self, bob: httpx.Client, body: dict[str, Any]
    ) -> None:
        refused(bob.post("/api/v1/keys/alice/dec_keys", json=body))

    @pytest.mark.parametrize(
        "query",
        ["", "?key_ID=", "?key_ID=x", f"?key_ID={uuid.UUID(int=1)}&key_ID={uuid.UUID(int=2)}"],
    )
    def test_5_4_get_with_any_other_number_of_ids_is_refused(
        self, bob: httpx.Client, query: str
    ) -> None:
        refused(bob.get(f"/api/v1/keys/alice/dec_keys{query}"))

    def test_5_4_a_post_without_ids_is_refused(self, bob: httpx.Client) -> None:
        refused(bob.post("/api/v1/keys/alice/dec_keys"))

    def test_5_4_keys_flow_in_both_directions(self, alice: httpx.Client, bob: httpx.Client) -> None:
        keys = enc(bob, {"number": 2}, slave="alice")
        response = dec(alice, *(key["key_ID"] for key in keys), master="bob")
        assert response.json() == {"keys": keys}


class TestError:
    def test_6_5_details_are_a_list_of_objects(self, alice: httpx.Client) -> None:
        error = refused(alice.post("/api/v1/keys/bob/enc_keys", json={"number": "many"}))
        assert error["details"]
        assert "number" in error["details"][0]

    def test_6_5_what_was_sent_is_not_repeated(self, alice: httpx.Client) -> None:
        canary = "c2VjcmV0LWtleS1zZW50LWJ5LW1pc3Rha2U="
        bodies: list[Any] = [
            {"number": canary},
            {"key_IDs": [{"key_ID": canary}]},
            {"extension_mandatory": canary},
            [canary],
        ]
        for body in bodies:
            for method in ("enc_keys", "dec_keys"):
                response = alice.post(f"/api/v1/keys/bob/{method}", json=body)
                assert canary not in response.text

    def test_6_5_unauthorized_answers_have_a_message_too(self, interface: SaeInterface) -> None:
        with interface.client(SaeId("stranger")) as stranger:
            error = refused(stranger.get("/api/v1/keys/bob/status"), 401)
        assert "registered" in error["message"]

    def test_6_5_an_sae_of_the_other_kme_is_unauthorized_here(
        self, interface: SaeInterface
    ) -> None:
        with interface.client_of(interface.pki.sae_certificates[EVE], A) as eve:
            refused(eve.get(f"/api/v1/keys/{BOB}/enc_keys"), 401)
