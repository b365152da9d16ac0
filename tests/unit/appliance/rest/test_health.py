"""Ready is who serves and reached Vault just now."""

import asyncio
import json
from pathlib import Path
from typing import Any

from starlette.requests import Request

from kme.appliance.rest.health import Health
from kme.errors import StoreUnavailableError
from simulation import VirtualClock, run_virtual


class Vault:
    """Something that answers, or doesn't, or never."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.n_asked = 0

    async def probe(self) -> None:
        self.n_asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error


async def ready(health: Health) -> tuple[int, Any]:
    scope = {"type": "http", "method": "GET", "path": "/health/ready", "headers": []}
    response = await health.answer(Request({**scope, "query_string": b""}))
    return response.status_code, json.loads(bytes(response.body))


def test_who_has_not_begun_is_not_ready(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        health = Health(clock, tmp_path / "alive")
        health.reached()
        assert (await ready(health))[0] == 503
        assert not (tmp_path / "alive").exists()

    run_virtual(main)


def test_who_reaches_vault_is_ready_and_says_how_peers_are(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        health, vault = Health(clock, tmp_path / "alive"), Vault()
        health.begin(vault.probe, lambda: {"kme-2": None, "kme-3": "was not heard"})
        status, body = await ready(health)
        assert status == 200
        assert body == {"status": "ready", "peers": {"kme-2": "alive", "kme-3": "was not heard"}}
        assert (tmp_path / "alive").exists()
        health.end()
        assert (await ready(health))[0] == 503

    run_virtual(main)


def test_vault_is_asked_at_most_once_a_second(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        health, vault = Health(clock, tmp_path / "alive"), Vault()
        health.begin(vault.probe, dict)
        for _ in range(10):
            answers = await asyncio.gather(*(ready(health) for _ in range(50)))
            assert {status for status, _ in answers} == {200}
            await clock.sleep(0.1)
        assert vault.n_asked <= 2

    run_virtual(main)


def test_without_vault_nobody_is_ready(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        health, vault = Health(clock, tmp_path / "alive"), Vault()
        health.begin(vault.probe, dict)
        vault.error = StoreUnavailableError("sealed")
        assert (await ready(health))[0] == 503
        vault.hangs = True
        begun_s = clock.monotonic_s()
        assert (await ready(health))[0] == 503
        assert clock.monotonic_s() - begun_s < 3
        vault.error, vault.hangs = None, False
        assert (await ready(health))[0] == 200

    run_virtual(main)


def test_a_folder_that_is_gone_does_not_end_the_service(tmp_path: Path) -> None:
    async def main(clock: VirtualClock) -> None:
        health, vault = Health(clock, tmp_path / "gone/alive"), Vault()
        health.begin(vault.probe, dict)
        assert (await ready(health))[0] == 200

    run_virtual(main)
