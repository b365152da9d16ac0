"""lease - candidates in, at most one of them elected out, for as long as it renews in time.

One document under check-and-set says who is elected, and counts its renewals.
Nobody compares clocks: the holder stops by its own, counted from before its
last renewal was sent; the others take over after they saw the counter stand
still for a lease time by theirs, and a tenth more for clocks that run unlike.
They saw a renewal later than it was sent, so the holder has stopped by then.
Whatever the holder does must bear that it is stopped anywhere.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kme.clock import Clock
from kme.errors import ConflictError, KmeError, SettingsError

_logger = logging.getLogger(__name__)

_PATH: Final = "lease"
_HOLDER: Final = "holder"
_INSTANCE: Final = "instance"
_COUNTER: Final = "counter"
_TAKEOVER_LEASES: Final = 1.1


class VersionedDocument(Protocol):
    """What a document store returns: the data, and their version for the next write."""

    @property
    def data(self) -> Mapping[str, Any]:
        """What was written."""
        ...

    @property
    def version(self) -> int:
        """How often it was written."""
        ...


class DocumentStore(Protocol):
    """Documents under check-and-set (`kme.vault.documents.Documents` is one)."""

    async def read(self, path: str) -> VersionedDocument | None:
        """Return a document, or None if there is none."""
        ...

    async def write(self, path: str, data: Mapping[str, Any], version: int) -> int:
        """Write the version after `version`; raise ConflictError if it isn't the present one."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Times of an election.

    Parameters
    ----------
    lease_s
        How long a renewal lasts.
    renew_s
        Time between renewals.
    poll_s
        Time between looks at another one's lease.
    """

    lease_s: float = 3.5
    renew_s: float = 2.4
    poll_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.renew_s < self.lease_s or self.poll_s <= 0:
            raise SettingsError("a lease is renewed before it ends, and times are above 0 s")


@dataclass(frozen=True, slots=True)
class _Seen:
    """Whose lease was seen, at which renewal."""

    holder: str
    instance: str
    counter: int
    version: int

    @classmethod
    def of(cls, document: VersionedDocument | None) -> "_Seen":
        if document is None:
            return cls("", "", 0, 0)
        data = document.data
        return cls(
            str(data.get(_HOLDER, "")),
            str(data.get(_INSTANCE, "")),
            int(data.get(_COUNTER, 0)),
            document.version,
        )


class Lease:
    """Stands for election, and leads while elected.

    Parameters
    ----------
    documents
        Where the lease is kept.
    clock
        The candidate's own time.
    timing
        How long a lease lasts.
    """

    def __init__(
        self, documents: DocumentStore, clock: Clock, timing: LeaseTiming | None = None
    ) -> None:
        self._documents = documents
        self._clock = clock
        self._timing = timing or LeaseTiming()
        self._holder = f"holder-{secrets.token_hex(16)}"
        self._instance = ""
        self._version = 0
        self._counter = 0
        self._expires_s = 0.0

    async def run(self, instance: str, lead: Callable[[], Awaitable[None]]) -> None:
        """Get elected and lead; again after each loss, until cancelled.

        Cancelled, it gives the lease up at once, so that nobody has to wait.

        Parameters
        ----------
        instance
            Name of the group of candidates of which only one stands at a time
            (`kme.workers.instance`): a lease of the same group is taken over
            at once, for its holder is gone.
        lead
            What the elected one does; it is cancelled when the lease is lost.
            When it ends or fails, the lease is given up.
        """
        self._instance = instance
        while True:
            await self._get_elected()
            _logger.info("elected", extra={"holder": self._holder})
            try:
                await self._lead(lead)
            finally:
                await self._give_up()
            await self._clock.sleep(self._timing.poll_s)

    async def _get_elected(self) -> None:
        """Return once the lease is ours."""
        last: _Seen | None = None
        since_s = self._clock.monotonic_s()
        while True:
            try:
                seen = _Seen.of(await self._documents.read(_PATH))
                if last is None or (seen.version, seen.counter) != (last.version, last.counter):
                    last, since_s = seen, self._clock.monotonic_s()
                if self._may_take(seen, since_s):
                    self._version, self._counter = seen.version, seen.counter
                    await self._renew()
                    return
            except ConflictError:
                pass  # another candidate was faster, or our own lost write landed: look again
            except KmeError as error:
                last = None
                _logger.debug("no election", extra={"reason": error.message})
            await self._clock.sleep(self._timing.poll_s)

    def _may_take(self, seen: _Seen, since_s: float) -> bool:
        if not seen.holder or seen.instance == self._instance:
            return True
        still_s = self._clock.monotonic_s() - since_s
        return still_s >= _TAKEOVER_LEASES * self._timing.lease_s

    async def _renew(self) -> None:
        """Write the next renewal; it counts from before it was sent."""
        begun_s = self._clock.monotonic_s()
        self._version = await self._documents.write(
            _PATH,
            {
                _HOLDER: self._holder,
                _INSTANCE: self._instance,
                _COUNTER: self._counter + 1,
            },
            self._version,
        )
        self._counter += 1
        self._expires_s = begun_s + self._timing.lease_s

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Lead until the lease is lost or leading ends."""
        work = asyncio.ensure_future(lead())
        keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.wait([work, keeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            keeping.cancel()
            work.cancel()
            await asyncio.wait([work, keeping])
        _log_end(work)

    async def _keep(self) -> None:
        """Renew until a renewal comes too late."""
        while True:
            await self._clock.sleep(self._timing.renew_s)
            left_s = self._expires_s - self._clock.monotonic_s()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    if not await self._renewed():
                        return
            except TimeoutError:
                _logger.warning("election lost: not renewed in time")
                return

    async def _renewed(self) -> bool:
        """Renew, however often it takes; False if somebody else was elected meanwhile."""
        while True:
            try:
                await self._renew()
            except ConflictError:
                seen = _Seen.of(await self._read_again())
                if seen.holder != self._holder:
                    _logger.warning("election lost: somebody else was elected")
                    return False
                # A renewal of ours that seemed lost had landed.
                self._version, self._counter = seen.version, seen.counter
            except KmeError as error:
                _logger.debug("lease not renewed", extra={"reason": error.message})
                await self._clock.sleep(self._timing.poll_s / 2)
            else:
                return True

    async def _read_again(self) -> VersionedDocument | None:
        while True:
            with suppress(KmeError):
                return await self._documents.read(_PATH)
            await self._clock.sleep(self._timing.poll_s / 2)

    async def _give_up(self) -> None:
        """Let others take over at once; who cannot be told waits until it ends."""
        nobody = {_HOLDER: "", _INSTANCE: "", _COUNTER: self._counter + 1}
        with suppress(KmeError, TimeoutError):
            async with asyncio.timeout(self._timing.lease_s):
                await self._documents.write(_PATH, nobody, self._version)


def _log_end(work: "asyncio.Future[None]") -> None:
    if work.cancelled():
        return
    error = work.exception()
    if error is not None:
        _logger.error("the elected worker's loops ended", exc_info=error)
