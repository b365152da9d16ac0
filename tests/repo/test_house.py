"""The repository's own rules: what documents say is so, and nothing is in git that must not be."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def _sources() -> list[Path]:
    return sorted(path for root in ("src", "qkd-sim/src") for path in (ROOT / root).rglob("*.py"))


def test_every_module_says_in_its_first_line_what_passes_through() -> None:
    for path in _sources():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"


def test_no_module_does_work_on_import() -> None:
    allowed = (
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
        ast.Assign, ast.AnnAssign, ast.Expr, ast.If,
    )  # fmt: skip
    for path in _sources():
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, allowed), f"{path}:{node.lineno} runs a statement on import"
            if isinstance(node, ast.Expr):
                assert isinstance(node.value, ast.Constant), f"{path}:{node.lineno} calls on import"


def test_no_private_key_is_in_git() -> None:
    for path in _tracked():
        assert b"PRIVATE KEY-----\n" not in path.read_bytes(), path


def test_no_large_file_is_in_git() -> None:
    for path in _tracked():
        assert path.stat().st_size < 400_000, path


def _texts() -> list[tuple[Path, str]]:
    """Return what people wrote; a lock of Go modules names hosts, which are names of modules."""
    found = []
    for path in _tracked():
        if path.name not in {"go.mod", "go.sum"}:
            try:
                found.append((path, path.read_text("utf-8")))
            except UnicodeDecodeError:
                continue
    return found


def test_no_package_registry_is_named() -> None:
    hosts = {
        "pypi": "org", "files.pythonhosted": "org", "proxy.golang": "org", "sum.golang": "org",
        "deb.debian": "org", "security.debian": "org", "registry.npmjs": "org", "ghcr": "io",
        "quay": "io",
    }  # fmt: skip
    names = [f"{name}.{top}" for name, top in hosts.items()]
    for path, text in _texts():
        assert not [name for name in names if name in text], path


def test_no_path_of_a_developers_machine_is_named() -> None:
    own = re.compile(rf"{re.escape(str(ROOT))}/|/(?:home|Users)/[A-Za-z]\w*/")
    for path, text in _texts():
        assert not own.search(text), path


def test_lock_files_pin_every_package_by_hash_and_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), path
        pinned = re.findall(r"^[a-z][^ \n]*==[^ \n]+", text, re.MULTILINE)
        assert pinned
        assert text.count("==") >= len(pinned)
        for block in re.split(r"\n(?=[a-z])", text)[1:]:
            assert "--hash=sha256:" in block, f"{path}: {block.splitlines()[0]}"


@pytest.mark.parametrize(
    ("project", "lock"),
    [("pyproject.toml", "kme.txt"), ("pyproject.toml", "dev.txt"),
     ("qkd-sim/pyproject.toml", "qkd-sim.txt"), ("qkd-sim/pyproject.toml", "dev.txt")],
)  # fmt: skip
def test_every_dependency_stands_in_its_lock_file(project: str, lock: str) -> None:
    wanted = tomllib.loads((ROOT / project).read_text())["project"]["dependencies"]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in wanted} - {"qkd-kme"}
    pinned = set(
        re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / lock).read_text(), re.MULTILINE)
    )
    assert names - pinned == set(), "run `make lock`"


def test_own_distributions_are_never_looked_up_by_name() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"^(qkd-kme|qkd-sim|kme)\b", path.read_text(), re.MULTILINE), path


def test_every_make_target_that_the_papers_name_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    papers = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[cst]*/README.md")]
    assert len(papers) > 15
    for path in papers:
        # In code, alone or at the begin of a line; not as a word of prose.
        named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]+)", path.read_text(), re.MULTILINE))
        assert named - targets == set(), path


def test_every_variable_that_the_papers_give_to_make_is_known() -> None:
    known = "".join(
        path.read_text() for path in (ROOT / "Makefile", *(ROOT / "scripts").iterdir())
    )  # fmt: skip
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for options in re.findall(r"(?:`|^)make [a-z-]+((?: [A-Z_]+=\S+)+)", path.read_text()):
            for name in re.findall(r"([A-Z_]+)=", options):
                assert re.search(rf"\b{name}\b", known), f"{path}: {name}"


def test_every_setting_that_the_papers_name_exists() -> None:
    known = "".join(
        path.read_text()
        for path in (
            ROOT / ".env.example", ROOT / "docs/configuration.md", *(ROOT / "scripts").iterdir(),
        )
    )  # fmt: skip
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("certs/*.md")]:
        for name in re.findall(r"\bKME_[A-Z_]*[A-Z]\b", path.read_text()):
            assert name in known, f"{path}: {name}"


def test_every_decision_and_every_test_folder_is_listed() -> None:
    index = (ROOT / "docs/adr/README.md").read_text()
    for page in (ROOT / "docs/adr").glob("0*.md"):
        assert f"({page.name})" in index
        number = page.name.partition("-")[0]
        assert re.match(rf"# {number}\.? ", page.read_text()), page
    listed = (ROOT / "tests/README.md").read_text()
    for folder in {path.relative_to(ROOT / "tests").parts[0] for path in _tracked_tests()}:
        assert f"`{folder}/`" in listed, folder


def _tracked_tests() -> list[Path]:
    tests = ROOT / "tests"
    return [path for path in _tracked() if tests in path.parents and path.parent != tests]


def test_every_link_between_the_papers_leads_somewhere() -> None:
    for path in _tracked():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if not target.startswith(("http:", "https:")):
                assert (path.parent / target).exists(), f"{path}: {target}"


def test_every_program_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "qkd-sim" / "pyproject.toml").read_text())["project"]
    programs = {path.stem for path in (ROOT / "qkd-sim/src/qkd_sim/programs").glob("*.py")}
    chain = {"esim", "chopper", "chopper2", "getrate", "pfind", "costream", "splicer", "errcd"}
    assert chain <= programs
    assert chain <= set(project["scripts"])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_the_papers_are_there_and_not_empty(name: str) -> None:
    assert len((ROOT / name).read_text()) > 300
