import pytest
import requests
from hvac.exceptions import InternalServerError

from kme.bootstrap.access import BootstrapError
from kme.bootstrap.steps import Step, holds, run_steps, settled
from kme.errors import InputError, StoreUnavailableError


class Site:
    """Things that are so, in the order in which they became so."""

    def __init__(self, *so: str) -> None:
        self.so = list(so)

    def step(self, name: str) -> Step:
        return Step(name, lambda: name in self.so, lambda: self.so.append(name))


def test_only_what_is_not_done_is_done_and_in_order() -> None:
    site = Site("b")
    assert run_steps([site.step(name) for name in "abc"]) == 2
    assert site.so == ["b", "a", "c"]
    assert run_steps([site.step(name) for name in "abc"]) == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InternalServerError("no room"), BootstrapError),
        (requests.exceptions.ConnectionError("gone"), StoreUnavailableError),
        (requests.exceptions.ReadTimeout("late"), StoreUnavailableError),
    ],
)
def test_a_failure_names_its_step_and_ends_the_run(
    error: Exception, expected: type[Exception]
) -> None:
    def fail() -> None:
        raise error

    site = Site()
    steps = [site.step("a"), Step("mounting", lambda: False, fail), site.step("c")]
    with pytest.raises(expected, match=r"mounting: Vault .*(no room|gone|late)"):
        run_steps(steps)
    assert site.so == ["a"]


def test_an_error_of_ours_is_left_as_it_is() -> None:
    def fail() -> None:
        raise InputError("a file is missing")

    with pytest.raises(InputError, match=r"^a file is missing$"):
        run_steps([Step("reading", lambda: False, fail)])


@pytest.mark.parametrize(
    ("found", "wanted", "is_so"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {}, True),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": None}, False),
        ({"a": ["x"]}, {"a": ["x", "y"]}, False),
    ],
)
def test_a_path_holds_what_is_wanted_whatever_else_it_says(
    found: dict[str, object], wanted: dict[str, object], is_so: bool
) -> None:
    assert holds(found, wanted) is is_so


def test_a_setting_is_written_once_and_whole() -> None:
    class Client:
        def __init__(self) -> None:
            self.data: dict[str, object] | None = None
            self.n_writes = 0

        def read(self, path: str) -> dict[str, object] | None:
            return None if self.data is None else {"data": self.data}

        def write_data(self, path: str, data: dict[str, object]) -> None:
            self.data, self.n_writes = {**data, "more": 1}, self.n_writes + 1

    client = Client()
    step = settled(client, "pki/config", {"enabled": False})
    assert [run_steps([step]), run_steps([step])] == [1, 0]
    assert client.n_writes == 1
    assert "pki/config" in step.name
