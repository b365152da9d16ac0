"""An operator says that a real Vault was put back to an older copy."""

from kme.ids import KmeId
from kme.secret import Secret
from kme.store.vault import VaultStore
from operator_site import PEER, OperatorSite


def restoring(site: OperatorSite) -> str | None:
    """Return what the rest service finds."""

    async def read(documents: object) -> str | None:
        store = await VaultStore.open(
            KmeId("kme-1"),
            documents,  # type: ignore[arg-type]
            Secret(bytes(32)),
        )
        found = await store.restoring(PEER)
        await store.close()
        return found

    return site.as_service("rest", read)


def test_the_store_is_marked_anew_each_time_and_rest_finds_it(site: OperatorSite) -> None:
    marks = [restoring(site)]
    for _ in range(2):
        code, out, _ = site.run("restored")
        assert code == 0
        assert "marked as an older copy" in out
        marks.append(restoring(site))
    assert marks[0] is None
    assert len(set(marks)) == 3
