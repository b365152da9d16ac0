"""The store in a real Vault when one of its writes fails: nothing twice, nothing lost."""

import asyncio

from kme.vault.documents import Documents
from real_vault import RealVault, open_session
from vault_story import live_through_some


def test_whatever_write_fails_nothing_is_doubled_or_lost(real_vault: RealVault) -> None:
    """Here some writes fail, in each way; all of them do on documents in memory."""
    mount = real_vault.fresh_mount()

    async def main() -> None:
        async with open_session(real_vault.access()) as session:
            assert await live_through_some(Documents(session, mount), stride=5) > 30

    asyncio.run(main())
