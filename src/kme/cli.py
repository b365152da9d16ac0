"""cli - the command `kme`: what a person types, in; one line or a table, out."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn, Optional

import typer
from rich.console import Console

import kme
from kme.errors import IdentifierError, KmeError, SettingsError
from kme.ids import KmeId, SaeId

app = typer.Typer(
    name="kme",
    help="Key management for quantum key distribution: the same key at both ends, exactly once.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULT_BASE_PORT: Final = 14014
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

LogLevelOption = Annotated[
    str, typer.Option(help=f"Level of the KMEs' logs: {', '.join(LOG_LEVELS)}.")
]
ScenarioOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads this form on every Python we support
    typer.Option(help="Scenario of the simulated link, TOML; the lab scenario if not given."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kme {kme.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


@app.command()
def demo(
    *,
    scenario: ScenarioOption = None,
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            max=2**63 - 1,
            help="Make the run repeatable: the same seed gives the same files under DIR/chain/. "
            "Such a key is no secret.",
        ),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Keep every file in this folder, the chain's in chain/."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON object, on the last line.")
    ] = False,
    show_key: Annotated[
        bool, typer.Option("--show-key", help="Show the key itself in the summary.")
    ] = False,
    log_level: LogLevelOption = "INFO",
) -> None:
    """Do the main job once, without Docker: photons to one key in two SAEs' hands."""
    from kme.demo import DemoJob, run_demo, show_summary  # noqa: PLC0415 - other commands start faster

    console = _console(stderr=as_json)
    job = DemoJob(_scenario(scenario), seed, out, _log_level(log_level))
    summary = run_demo(job, console)
    show_summary(summary, console, with_key=show_key)
    if as_json:
        figures = summary.figures()
        if show_key and summary.key is not None:
            figures["key"] = summary.key.key.to_base64()
        typer.echo(json.dumps(figures))


@app.command()
def serve(  # noqa: PLR0913
    *,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Folder that holds everything.")
    ] = Path("kme-pair"),
    base_port: Annotated[
        int, typer.Option(help="First of the four TCP ports, on the loopback address.")
    ] = DEFAULT_BASE_PORT,
    sae: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME@KME",
            help="An SAE and its home; may be repeated. Default: alice@kme-a bob@kme-b eve@kme-b.",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="What feeds the pair: `link`, the simulated link, or `random`, random bits at "
            "once: no quantum key."
        ),
    ] = "link",
    scenario: ScenarioOption = None,
    ready_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Written when keys can be drawn."),
    ] = None,
    log_level: LogLevelOption = "INFO",
) -> None:
    """Run two KMEs and the link between them until Ctrl-C; print how to fetch a key."""
    from kme.pair import DEFAULT_SAES, PairPlan, ports_from  # noqa: PLC0415
    from kme.runtime import run as run_process  # noqa: PLC0415
    from kme.serve import ServeJob, source_of  # noqa: PLC0415
    from kme.serve import serve as serve_pair  # noqa: PLC0415

    if source not in {"link", "random"}:
        raise SettingsError(f"--source {source}: must be link or random")
    driver = {"link": "sim"}.get(source, source)
    plan = PairPlan(
        directory.resolve(),
        ports_from(base_port),
        _saes(sae) if sae else DEFAULT_SAES,
        *source_of(driver),
        {"log": {"level": _log_level(log_level)}},
    )
    job = ServeJob(plan, driver, _scenario(scenario), ready_file)
    console = _console()
    run_process(lambda stop: serve_pair(job, console, stop))


@app.command()
def run(
    *,
    config: Annotated[Path, typer.Option(metavar="FILE", help="Configuration of this KME, TOML.")],
    stop_with_input: Annotated[
        bool, typer.Option("--stop-with-input", help="Stop when standard input ends.")
    ] = False,
) -> None:
    """Run one KME in this process until Ctrl-C or SIGTERM."""
    from kme.embedded import run_kme  # noqa: PLC0415
    from kme.runtime import run as run_process  # noqa: PLC0415
    from kme.settings import load_settings  # noqa: PLC0415

    settings = load_settings(config)
    run_process(lambda stop: run_kme(settings, stop, stops_with_input=stop_with_input))


@app.command()
def backup(
    *,
    config: Annotated[Path, typer.Option(metavar="FILE", help="Configuration of this KME, TOML.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where to; an older file there is replaced.")
    ],
) -> None:
    """Copy the store of a KME that is stopped; the copy is sealed like the store."""
    from kme.settings import load_settings  # noqa: PLC0415
    from kme.store.sqlite import copies, read_master_key  # noqa: PLC0415

    settings = load_settings(config)
    master_key = read_master_key(settings.store.master_key)
    copies.back_up(KmeId(settings.id), settings.store.path, master_key, out)
    typer.echo(
        f"{out}: the store of KME {settings.id}; it is nothing without {settings.store.master_key},"
        " which belongs elsewhere"
    )


@app.command()
def restore(
    *,
    config: Annotated[Path, typer.Option(metavar="FILE", help="Configuration of this KME, TOML.")],
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--from", metavar="FILE", help="A copy that `kme backup` made."),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="The store is an older copy already, of a disk or a machine: mark it as one.",
        ),
    ] = False,
) -> None:
    """Put an older copy of the store of a KME in its place; the KME is stopped.

    Whatever may have been used since is burnt, by agreement with each peer,
    before this KME hands out keys again.
    """
    from kme.pairing.heartbeat import random_token  # noqa: PLC0415
    from kme.settings import load_settings  # noqa: PLC0415
    from kme.store.sqlite import copies, read_master_key  # noqa: PLC0415

    if (source is None) is not in_place:
        raise SettingsError("give either --from FILE or --in-place")
    settings = load_settings(config)
    master_key = read_master_key(settings.store.master_key)
    kme_id, path = KmeId(settings.id), settings.store.path
    if source is None:
        copies.mark(kme_id, path, master_key, random_token())
        typer.echo(f"{path}: marked as an older copy")
    else:
        aside = copies.restore(kme_id, path, master_key, source, random_token())
        typer.echo(f"{path}: restored from {source}; what was there before lies in {aside}")
    typer.echo(f"start KME {kme_id}: it hands out keys again once its peers have agreed")


@app.command("check-config")
def check_config(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="FILE", help="Configuration of a KME, TOML."),
    ] = None,
    *,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print the page that explains every setting.")
    ] = False,
) -> None:
    """Say what is wrong with a configuration file, or explain every setting."""
    from kme.settings import load_settings  # noqa: PLC0415
    from kme.settings_page import describe_settings  # noqa: PLC0415

    if describe:
        typer.echo(describe_settings(), nl=False)
    elif config is None:
        raise SettingsError("name a configuration file, or give --describe")
    else:
        typer.echo(f"{config}: KME {load_settings(config).id}, all settings hold")


@app.command("show-epoch")
def show_epoch(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Final key files, type 7.")],
) -> None:
    """Show what final key files hold, without a bit of the keys."""
    from kme.epochs.finalkey import read_final_key  # noqa: PLC0415

    for path in files:
        final = read_final_key(path)
        typer.echo(
            f"{path}: start epoch {final.start_epoch}, epochs {final.n_epochs}, bits {final.n_bits}"
        )


@app.command()
def status(
    *,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Folder of a running `kme serve`.")
    ] = Path("kme-pair"),
) -> None:
    """Show what each couple of SAEs of a running `kme serve` could be given now."""
    from kme.status import show_status  # noqa: PLC0415

    asyncio.run(show_status(directory, _console()))


def _log_level(text: str) -> str:
    """Check a level before processes are started with it."""
    if text not in LOG_LEVELS:
        raise SettingsError(f"--log-level {text}: must be one of {', '.join(LOG_LEVELS)}")
    return text


def _scenario(path: Path | None) -> Path | None:
    """Check that the link's process will find its scenario."""
    if path is not None and not path.is_file():
        raise SettingsError(f"--scenario {path}: is no file")
    return path


def _console(*, stderr: bool = False) -> Console:
    """Return the screen; what is shown is text, never markup, and is not cut or wrapped."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=True)


def _saes(texts: list[str]) -> dict[SaeId, KmeId]:
    """Read ``NAME@KME`` as often as it was given."""
    from kme.pair import KME_IDS  # noqa: PLC0415

    saes: dict[SaeId, KmeId] = {}
    for text in texts:
        name, at, home = text.rpartition("@")
        if not at or home not in KME_IDS:
            raise SettingsError(
                f"--sae {text}: write NAME@KME with KME one of {', '.join(KME_IDS)}"
            )
        try:
            sae = SaeId(name)
        except IdentifierError as error:
            raise SettingsError(f"--sae {text}: {error.message}") from error
        if sae in saes:
            raise SettingsError(f"--sae {text}: this name was given before")
        saes[sae] = KmeId(home)
    return saes


def main() -> NoReturn:
    """Run the command; what a user can cause ends in one line and exit code 1."""
    try:
        app(prog_name="kme")
    except KmeError as error:
        _end(str(error))
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        _end(f"{what}{error.strerror or error}")
    raise SystemExit(0)


def _end(why: str) -> NoReturn:
    """End with one line, also if a name in it has several."""
    sys.stderr.write(f"kme: {' '.join(why.splitlines())}\n")
    raise SystemExit(1) from None
