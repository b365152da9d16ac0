"""parties - errcd at both sides: two processes that share nothing but a socket."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from kme.epochs.qkde import Fact
from kme.errors import StageError
from kme.ids import Epoch
from qkd_sim.errcd.finitekey import Epsilons
from qkd_sim.errcd.messages import Reason
from qkd_sim.errors import StoppedError

PARTY_TIMEOUT_S: Final = 600.0

_LOOK_S: Final = 0.05
_TAIL_BYTES: Final = 4096
_MAX_WORDS: Final = 500

_NO_KEY: Final = "blocks gave a key"
"""So ends what a party says when all blocks were refused; why is in the figures."""

_ADVICE: Final[Mapping[str, str]] = {
    Reason.TOO_MANY_ERRORS.text: "somebody listens, or the analysers are out of line: "
    "try a scenario with higher visibilities and no eavesdropper",
    Reason.TOO_SHORT.text: "simulate longer, or more pairs, or fewer errors",
    Reason.KEYS_DIFFER.text: "try again",
}


class PartyFolders(Protocol):
    """What one party may see: its own side's folders."""

    @property
    def final(self) -> Path:
        """Where its final keys go."""
        ...

    def folder(self, name: str) -> Path:
        """Return one of its folders."""
        ...


@dataclass(frozen=True, slots=True)
class _Party:
    """One party at work.

    Parameters
    ----------
    name
        ``alice`` or ``bob``.
    process
        The party; its standard input is a pipe that it watches.
    log
        What it says.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def error(self) -> str | None:
        """Return what it said if it ended with an error."""
        code = self.process.returncode
        if not code:
            return None
        with self.log.open("rb") as log:
            size_bytes = log.seek(0, os.SEEK_END)
            log.seek(max(0, size_bytes - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        words = lines[-1].removeprefix("errcd: ")[:_MAX_WORDS] if lines else ended
        return f"{self.name}: {words}"


@dataclass(frozen=True, slots=True)
class Parties:
    """The two ends of errcd.

    Parameters
    ----------
    alice
        The side whose key is the reference.
    bob
        The side that corrects.
    seed
        Of what both draw; None for real randomness.
    """

    alice: PartyFolders
    bob: PartyFolders
    seed: int | None

    def reconcile(
        self, blocks: Sequence[tuple[Epoch, int]], is_stopped: Callable[[], bool] = lambda: False
    ) -> dict[str, Fact]:
        """Turn sifted keys into final keys, and return the figures of all blocks together.

        Parameters
        ----------
        blocks
            First epoch and number of epochs of each block.
        is_stopped
            Asked every moment whether to break off.

        Raises
        ------
        StageError
            If a party ends with an error, or no block gave a key: why, and what to try.
        StoppedError
            If it was asked to stop.
        """
        if not blocks:
            # Neither party would be told to begin.
            raise StageError("errcd", "there is no block of sifted key; simulate longer")
        with tempfile.TemporaryDirectory(prefix="errcd-") as name:
            figures = Path(name) / "blocks.json"
            orders = [f"--block={epoch}:{n_epochs}" for epoch, n_epochs in blocks]
            orders.append(f"--json={figures}")
            with self._at_work(orders, Path(name)) as parties:
                _await_end(parties, is_stopped)
                errors = [error for party in parties if (error := party.error())]
            results = json.loads(figures.read_text()) if figures.exists() else []
        faults = [error for error in errors if not error.endswith(_NO_KEY)]
        if faults or not results:
            raise StageError("errcd", "; ".join(faults or errors) or "the parties left no figures")
        if not any(result["final_bits"] for result in results):
            raise StageError("errcd", _refusal(results))
        return _together(results)

    @contextmanager
    def _at_work(self, orders: Sequence[str], logs: Path) -> Iterator[list[_Party]]:
        """Have both parties at work while the context lasts."""
        with ExitStack() as stack:
            ends = socket.socketpair()
            # Each party holds its own end alone, so that it sees when the other is gone.
            with ends[0], ends[1]:
                parties = [
                    self._start(stack, "alice", ends[0].fileno(), logs, orders),
                    self._start(stack, "bob", ends[1].fileno(), logs, []),
                ]
            yield parties

    def _start(
        self, stack: ExitStack, name: str, end: int, logs: Path, orders: Sequence[str]
    ) -> _Party:
        """Start one party, which ends with the stack."""
        folders = self.alice if name == "alice" else self.bob
        folders.final.mkdir(mode=0o700, parents=True, exist_ok=True)
        notices = folders.folder("errcd") / "notify.log"
        command = [sys.executable, "-m", "qkd_sim.programs.party", "--fd", str(end)]
        command += ["-d", str(folders.folder("rawkey")), "-f", str(folders.final)]
        command += ["-V", "5", "-l", str(notices), *orders]
        if self.seed is not None:
            command += ["--seed", str(self.seed)]
        path = logs / name
        with path.open("wb") as log:
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    pass_fds=[end],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C reaches this process alone, which then ends its parties.
                    start_new_session=True,
                )
            )
        stack.callback(process.kill)
        return _Party(name, process, path)


def _await_end(parties: Sequence[_Party], is_stopped: Callable[[], bool]) -> None:
    """Wait until both parties have ended."""
    deadline_s = time.monotonic() + PARTY_TIMEOUT_S
    while any(party.process.poll() is None for party in parties):
        if is_stopped():
            raise StoppedError("stopped in the middle of errcd; this stretch gives no key")
        if time.monotonic() > deadline_s:
            raise StageError("errcd", f"a party did not end within {PARTY_TIMEOUT_S:.0f} s")
        time.sleep(_LOOK_S)


def _refusal(results: Sequence[Mapping[str, Any]]) -> str:
    """Return why no block gave a key, and what to try."""
    reasons = sorted({str(result.get("refused")) for result in results})
    qbers = [result["qber"] for result in results if result.get("qber") is not None]
    sifted_bits = sum(result.get("sifted_bits") or 0 for result in results)
    shown = f" (QBER {max(qbers):.1%}, {sifted_bits} sifted bits)" if qbers else ""
    said = "; ".join(reasons)
    advice = [advice for reason, advice in _ADVICE.items() if reason in said]
    return "; ".join([f"no block gave a key: {said}{shown}", *advice])


def _together(results: Sequence[Mapping[str, Any]]) -> dict[str, Fact]:
    """Return the figures of all blocks that gave a key together."""
    made = [result for result in results if result["final_bits"]]
    sample_bits = sum(result["sample_bits"] for result in made)
    limit = sum(
        result["disclosed_bits"] / result["efficiency"] for result in made if result["efficiency"]
    )
    disclosed_bits = sum(result["disclosed_bits"] for result in made)
    return {
        "blocks": len(made),
        "refused_blocks": len(results) - len(made),
        "sample_bits": sample_bits,
        "qber": round(sum(result["sample_errors"] for result in made) / sample_bits, 6),
        "key_bits": sum(result["key_bits"] for result in made),
        "corrected_bits": sum(result["corrected_bits"] for result in made),
        "disclosed_bits": disclosed_bits,
        "verification_bits": sum(result["verification_bits"] for result in made),
        "efficiency": round(disclosed_bits / limit, 5) if limit else None,
        "final_bits": sum(result["final_bits"] for result in made),
        "epsilon": len(made) * Epsilons().total,
    }
