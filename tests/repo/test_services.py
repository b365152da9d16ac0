"""services/: each entry is thin and has its image, its container and its page of settings."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ENTRIES = sorted(path for path in (ROOT / "services").glob("*/*.py") if "." not in path.stem)
MAX_LINES = 60


def _compose_services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in ("docker-compose.yml", "docker-compose.init.yml"):
        found |= yaml.safe_load((ROOT / name).read_text())["services"]
    return found


def _own_images() -> set[str]:
    images = (service.get("image", "") for service in _compose_services().values())
    return set(re.findall(r"\bkme/(\w+):", " ".join(images)))


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.parent.name)
class TestEntry:
    def test_it_is_called_as_its_service(self, path: Path) -> None:
        assert path.stem == path.parent.name

    def test_it_is_short(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= MAX_LINES

    def test_it_says_what_it_is(self, path: Path) -> None:
        assert (ast.get_docstring(ast.parse(path.read_text())) or "").startswith(path.stem)

    def test_it_imports_the_appliance_and_makes_at_most_one_call(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports
        for node in imports:
            assert isinstance(node, ast.ImportFrom)
            assert (node.module or "").startswith("kme.appliance.")
        assert len([node for node in ast.walk(tree) if isinstance(node, ast.Call)]) <= 1
        assert not [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.For)
        ]

    def test_a_container_runs_it(self, path: Path) -> None:
        assert path.stem in _own_images()

    def test_its_settings_are_explained(self, path: Path) -> None:
        page = (ROOT / "docs" / "configuration.md").read_text()
        assert f"\n### {path.stem}\n" in page


def test_every_container_of_ours_has_an_entry() -> None:
    # `volumes` runs nothing.
    assert _own_images() - {"volumes"} == {path.stem for path in ENTRIES}


def test_every_module_of_the_appliance_with_a_main_has_an_entry() -> None:
    modules = {
        path.stem
        for path in (ROOT / "src/kme/appliance").glob("*.py")
        if re.search(r"^def main\(", path.read_text(), re.MULTILINE)
    }
    assert modules <= {path.stem for path in ENTRIES}


def test_every_policy_is_put_into_the_image_that_loads_it() -> None:
    recipe = (ROOT / "services/Dockerfile").read_text()
    policies = [
        path for path in (ROOT / "services").glob("*/*.hcl") if path.name != "vault.hcl"
    ]  # fmt: skip
    assert len(policies) == 7
    for path in policies:
        assert str(path.relative_to(ROOT)) in recipe
