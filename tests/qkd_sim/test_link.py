"""qkd_sim.link: what a job asks for stands on a command line that the program understands."""

from pathlib import Path

import pytest

from kme.epochs.qkde import LinkJob, find_driver
from qkd_sim.link import SimulatedLink
from qkd_sim.programs import run

FOLDERS = (Path("/a place/kme-a/epochs"), Path("/a place/kme-b/epochs"))


@pytest.mark.parametrize(
    "job",
    [
        LinkJob(FOLDERS, Path("/a place/link")),
        LinkJob(FOLDERS, Path("link"), scenario=Path("my lab.toml"), seed=0),
        LinkJob(FOLDERS, Path("link"), is_continuous=True),
    ],
)
def test_the_program_is_told_the_whole_job(job: LinkJob) -> None:
    command = SimulatedLink().command(job)
    assert command[1:4] == ["-m", "qkd_sim", "run"]
    options = run._parser().parse_args(command[4:])
    assert (options.hec_final, options.lec_final) == job.final_keys
    assert options.work == job.work
    assert options.scenario == job.scenario
    assert options.seed == job.seed
    assert options.continuous == job.is_continuous
    assert options.reports
    assert options.stop_with_input


def test_the_driver_is_found_by_its_name() -> None:
    assert isinstance(find_driver("sim"), SimulatedLink)
