"""link - the whole simulated link as a driver that the key management entity can start."""

import sys

from kme.epochs.qkde import LinkJob


class SimulatedLink:
    """The driver ``sim`` (entry point group ``kme.qkde``).

    The first of a job's two folders belongs to the high-count side.
    """

    def command(self, job: LinkJob) -> list[str]:
        """Return the command line of ``qkd-sim run``."""
        hec, lec = job.final_keys
        arguments = [sys.executable, "-m", "qkd_sim", "run", "--reports", "--stop-with-input"]
        arguments += ["--work", str(job.work)]
        arguments += ["--hec-final", str(hec), "--lec-final", str(lec)]
        if job.scenario is not None:
            arguments += ["--scenario", str(job.scenario)]
        if job.seed is not None:
            arguments += ["--seed", str(job.seed)]
        if job.is_continuous:
            arguments += ["--continuous"]
        return arguments
