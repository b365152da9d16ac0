"""The index of the inbox: exact, small, and emptied without losing anything."""

import json

from kme.ids import Epoch, SourceId
from kme.store.records import FinalKeyRef, InboxEntry
from kme.store.vault.index import Bucket, Top, bucket_of

LINK = SourceId("link")


def ref(epoch: int, part: int = 0) -> FinalKeyRef:
    return FinalKeyRef(LINK, Epoch(epoch), part)


def test_a_full_bucket_stays_well_below_100_kb() -> None:
    bucket = Bucket()
    for epoch in range(4096):
        assert bucket.add(Epoch((7 << 12) + epoch), [65536])
    text = json.dumps(bucket.to_data())
    assert len(text) < 100_000
    assert Bucket.from_data(json.loads(text)) == bucket


def test_an_epoch_comes_in_once_for_good() -> None:
    bucket = Bucket()
    assert bucket.add(Epoch(4095), [8])
    bucket.remove([ref(4095)])
    assert not bucket.add(Epoch(4095), [8])
    assert not Bucket.from_data(bucket.to_data()).add(Epoch(4095), [8])
    assert bucket.add(Epoch(0), [8])


def test_parts_leave_one_by_one() -> None:
    bucket = Bucket()
    bucket.add(Epoch(5), [100, 200, 300])
    bucket.remove([ref(5, 1), ref(5, 9), ref(6)])
    assert bucket.entries(LINK) == [InboxEntry(ref(5), 100), InboxEntry(ref(5, 2), 300)]
    assert [bucket.size_of(ref(5, part)) for part in (-1, 0, 1, 2, 3)] == [0, 100, 0, 300, 0]
    bucket.remove([ref(5), ref(5, 2)])
    assert bucket.is_empty


def test_what_is_burnt_is_remembered_until_it_is_overwritten() -> None:
    bucket = Bucket(is_listed=True)
    bucket.add(Epoch(5), [100, 200])
    assert bucket.burn([ref(5), ref(5, 1), ref(6)]) == 2
    assert bucket.burn([ref(5)]) == 0
    assert bucket.entries(LINK) == []
    assert not bucket.unlist()
    again = Bucket.from_data(bucket.to_data())
    assert again.to_burn(LINK) == [ref(5), ref(5, 1)]
    assert again.spare([ref(5, 1)]) == 1
    again.has_burnt([ref(5)])
    assert again.entries(LINK) == [InboxEntry(ref(5, 1), 200)]
    assert again.to_burn(LINK) == []


def test_taking_off_and_putting_on_the_list_are_changes_each_time() -> None:
    bucket, top = Bucket(is_listed=True), Top()
    assert bucket.unlist()
    before = bucket.to_data()
    assert bucket.unlist()
    assert bucket.to_data() != before
    top.list_bucket(bucket_of(Epoch(4096)))
    before = top.to_data()
    top.list_bucket(1)
    assert top.to_data() != before
    assert Top.from_data(top.to_data()) == top
