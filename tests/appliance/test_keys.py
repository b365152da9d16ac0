"""What SAEs get through both Traefiks: status, keys by GET and POST, equal, once."""

import pytest

from two_kmes import TwoKmes


@pytest.mark.parametrize("direction", [0, 1])
class TestKeys:
    def test_status_tells_what_there_is(self, kmes: TwoKmes, direction: int) -> None:
        master, slave = kmes.sites[direction], kmes.sites[1 - direction]
        answer = master.call(f"/{slave.sae}/status", credential=master.credential())
        assert answer.status == 200
        assert answer.body["source_KME_ID"] == master.name
        assert answer.body["target_KME_ID"] == slave.name
        assert answer.body["master_SAE_ID"] == master.sae
        assert answer.body["slave_SAE_ID"] == slave.sae
        assert answer.body["stored_key_count"] > 0

    def test_one_key_by_get_is_equal_at_both_ends(self, kmes: TwoKmes, direction: int) -> None:
        master, slave = kmes.sites[direction], kmes.sites[1 - direction]
        given = master.call(f"/{slave.sae}/enc_keys", credential=master.credential())
        assert given.status == 200
        ((key_id, key),) = given.keys.items()
        assert len(key) == 32
        drawn = slave.call(f"/{master.sae}/dec_keys?key_ID={key_id}", credential=slave.credential())
        assert drawn.status == 200
        assert drawn.keys == {key_id: key}

    def test_many_keys_by_post_are_equal_at_both_ends(self, kmes: TwoKmes, direction: int) -> None:
        master, slave = kmes.sites[direction], kmes.sites[1 - direction]
        given = master.call(
            f"/{slave.sae}/enc_keys",
            body={"number": 50, "size": 512},
            credential=master.credential(),
        )
        assert given.status == 200
        assert len(given.keys) == 50
        assert slave.dec_keys(master, *given.keys).keys == given.keys

    def test_no_key_is_delivered_twice(self, kmes: TwoKmes, direction: int) -> None:
        master, slave = kmes.sites[direction], kmes.sites[1 - direction]
        (key_id,) = master.enc_keys(slave).keys
        assert slave.dec_keys(master, key_id).status == 200
        assert slave.dec_keys(master, key_id).status == 400

    def test_another_sae_gets_nothing_for_the_same_key_id(
        self, kmes: TwoKmes, direction: int
    ) -> None:
        master, slave = kmes.sites[direction], kmes.sites[1 - direction]
        (key_id,) = master.enc_keys(slave).keys
        # The master itself, and at the wrong KME.
        assert master.dec_keys(master, key_id).status in {400, 401}
        assert slave.dec_keys(master, key_id).status == 200
