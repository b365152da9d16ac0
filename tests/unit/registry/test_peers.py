import dataclasses

import pytest

from kme.errors import InputError
from kme.ids import KmeId
from kme.registry.peers import PeerSite, forget_site, read_site, read_sites, write_site
from memory_documents import MemoryDocuments
from store_contract import in_loop

B, C = KmeId("kme-b"), KmeId("kme-c")
SITE_B = PeerSite(B, "site b", "https://b:1", "https://b:2", "CA", "ROOT", "ab cd", 7.0)
SITE_C = dataclasses.replace(SITE_B, kme=C)


@in_loop
async def test_a_site_is_connected_changed_and_disconnected() -> None:
    documents = MemoryDocuments()
    assert await read_site(documents, B) is None
    await write_site(documents, SITE_C)
    await write_site(documents, SITE_B)
    assert await read_sites(documents) == [SITE_B, SITE_C]
    changed = dataclasses.replace(SITE_B, ca="another")
    await write_site(documents, changed)
    assert await read_site(documents, B) == changed
    await forget_site(documents, B)
    assert await read_sites(documents) == [SITE_C]


@pytest.mark.parametrize("wrong", [{}, {**SITE_B.to_json(), "since_s": "x"}])
def test_what_is_no_site_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="connected KME"):
        PeerSite.from_json(wrong)
