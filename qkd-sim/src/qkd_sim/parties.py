"""parties - errcd at both sides: two processes that share nothing but a socket."""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from kme.epochs.qkde import Fact
from kme.errors import StageError
from kme.ids import Epoch

PARTY_TIMEOUT_S: Final = 600.0


class PartyFolders(Protocol):
    """What one party may see: its own side's folders."""

    @property
    def final(self) -> Path:
        """Where its final keys go."""
        ...

    def folder(self, name: str) -> Path:
        """Return one of its folders."""
        ...


def reconcile(
    alice: PartyFolders, bob: PartyFolders, blocks: Sequence[tuple[Epoch, int]], seed: int | None
) -> dict[str, Fact]:
    """Turn sifted keys into final keys, and return the figures of all blocks together.

    Parameters
    ----------
    alice
        The side whose key is the reference.
    bob
        The side that corrects.
    blocks
        First epoch and number of epochs of each block.
    seed
        Of what both draw; None for real randomness.

    Raises
    ------
    StageError
        If a party ends with an error, or no block gave a key.
    """
    with tempfile.TemporaryDirectory(prefix="errcd-") as name:
        figures = Path(name) / "blocks.json"
        ends = socket.socketpair()
        offer = [f"--block={epoch}:{n_epochs}" for epoch, n_epochs in blocks]
        try:
            parties = {
                "alice": _start(alice, ends[0], [*offer, f"--json={figures}"], seed),
                "bob": _start(bob, ends[1], [], seed),
            }
        finally:
            # Each party holds its own end alone, so that it sees when the other is gone.
            for end in ends:
                end.close()
        errors = {name: _wait(party) for name, party in parties.items()}
        results = json.loads(figures.read_text()) if figures.exists() else []
    failed = [f"{name}: {error}" for name, error in errors.items() if error]
    if failed:
        raise StageError("errcd", "; ".join(failed) + _advice(results))
    return _together(results)


def _start(
    folders: PartyFolders, end: socket.socket, orders: Sequence[str], seed: int | None
) -> subprocess.Popen[str]:
    """Start one party."""
    folders.final.mkdir(parents=True, exist_ok=True)
    notices = folders.folder("errcd") / "notify.log"
    command = [sys.executable, "-m", "qkd_sim.programs.errcd", "--fd", str(end.fileno())]
    command += ["-d", str(folders.folder("rawkey")), "-f", str(folders.final)]
    command += ["-V", "5", "-l", str(notices), *orders]
    if seed is not None:
        command += ["--seed", str(seed)]
    return subprocess.Popen(
        command,
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait(party: subprocess.Popen[str]) -> str | None:
    """Wait for a party's end; return what it said if that was an error."""
    try:
        _, said = party.communicate(timeout=PARTY_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        party.kill()
        party.communicate()
        return f"did not end within {PARTY_TIMEOUT_S:.0f} s"
    if not party.returncode:
        return None
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("errcd: ") if lines else f"exit code {party.returncode}"


def _advice(results: Sequence[Mapping[str, Any]]) -> str:
    """Return what was refused and why, for the end of an error."""
    reasons = {str(result["refused"]) for result in results if "refused" in result}
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""


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
    }
