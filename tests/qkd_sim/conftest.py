"""Fixtures that are too dear to be made for every test module."""

import pytest

from link_runs import SMALL, LinkRun, run_chain

SEED = 7


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> LinkRun:
    """Return a finished run of the whole chain; its files are for reading only."""
    return run_chain(tmp_path_factory.mktemp("finished") / "a link", SMALL, SEED)
