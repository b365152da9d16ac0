"""Documents in a dictionary that behave as Vault's do, other tasks running in between."""

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any

from kme.errors import ConflictError
from kme.vault.documents import Document


class MemoryDocuments:
    """What `kme.vault.documents.Documents` promises, without a Vault.

    `tests/integration/store/test_vault.py` holds both to the same promises.

    Parameters
    ----------
    seed
        Decides how often other tasks run before and after each step.
    """

    def __init__(self, seed: int = 0) -> None:
        self._kept: dict[str, tuple[str, int]] = {}
        self._rng = random.Random(seed)

    async def read(self, path: str) -> Document | None:
        await self._wait()
        kept = self._kept.get(path)
        await self._wait()
        return None if kept is None else Document(json.loads(kept[0]), kept[1])

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        await self._wait()
        text = json.dumps(dict(data))
        found = self._kept.get(path, ("", 0))[1]
        if found != version:
            await self._wait()
            raise ConflictError(f"{path} has another version")
        self._kept[path] = text, version + 1
        await self._wait()
        return version + 1

    async def names(self, path: str) -> list[str]:
        await self._wait()
        below = [
            name.removeprefix(f"{path}/") for name in self._kept if name.startswith(f"{path}/")
        ]
        return sorted({name.split("/")[0] + "/" * ("/" in name) for name in below})

    async def forget(self, path: str) -> None:
        await self._wait()
        self._kept.pop(path, None)
        await self._wait()

    def paths(self) -> list[str]:
        """List all that is there."""
        return sorted(self._kept)

    async def _wait(self) -> None:
        for _ in range(self._rng.randrange(3)):
            await asyncio.sleep(0)
