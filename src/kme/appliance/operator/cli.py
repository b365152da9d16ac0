"""cli - the operator's commands: a line typed in; what was done and what comes next out."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, Optional, TypeVar

import typer

from kme.appliance.connect import Bundle, shown_subject
from kme.appliance.operator import backups, trust
from kme.appliance.operator.rest import RestClient
from kme.appliance.operator.saes import SaeOffice
from kme.appliance.operator.screen import Screen
from kme.appliance.operator.settings import OperatorSettings, vault_session
from kme.appliance.operator.view import Inspection, told_of_sae
from kme.appliance.start import load, one_line_errors
from kme.clock import SystemClock
from kme.errors import InputError, KmeError
from kme.ids import KmeId, SaeId
from kme.log import set_up_logging
from kme.pairing.heartbeat import random_token
from kme.registry.saes import SaeRegistry
from kme.store.vault.restores import mark_restored
from kme.vault.documents import Documents
from kme.vault.snapshot_file import SnapshotFacts

_T = TypeVar("_T")

NOT_WELL: Final = 3
"""Exit code of a command that was done and found something wrong."""

UNCHANGED: Final = 4
"""Exit code of a restore that changed nothing."""

app = typer.Typer(
    name="operator",
    help="What an operator asks of this KME.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sae_app = typer.Typer(help="SAEs of this KME.", no_args_is_help=True, rich_markup_mode=None)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
snapshot_app = typer.Typer(
    help="Backups of what Vault holds.", no_args_is_help=True, rich_markup_mode=None
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Id of the SAE.")]
BundleArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The other KME's bundle; - is standard input.")
]
PeerOption = Annotated[
    Optional[str],  # noqa: UP045 - typer reads this form on every Python we support
    typer.Option("--peer", metavar="KME", help="Only this KME; all if not given."),
]


@app.command()
def inspect(*, as_json: JsonOption = False) -> None:
    """Show what Vault holds: counts, digests and states, never a key's bytes."""
    settings, screen = _settings(), Screen(as_json=as_json)

    async def look() -> dict[str, Any]:
        async with vault_session(settings, "inspect") as session:
            return await Inspection(settings, session).take()

    found = asyncio.run(look())
    screen.result(found)
    waiting = ("peer", "source", "n_final_keys", "n_bytes", "first_epoch", "last_epoch")
    screen.table("final keys that wait to be paired", found["waiting"], waiting)
    pair = ("peer", "highest", "settled", "peer_settled", "floor_allocate", "floor_draw")
    room = ("own_blocks_with_room", "own_bytes_free", "n_ledgers")
    screen.table("pairs", found["pairs"], (*pair, *room))
    block = ("peer", "number", "owner", "source", "bytes", "digest", "granules", "granules_drawn")
    screen.table("latest blocks", found["blocks"], block)
    screen.table("latest alarms", found["incidents"], ("at", "peer", "kind", "details"))


@app.command()
def keys(*, as_json: JsonOption = False) -> None:
    """Show how much key is in stock for each pair, at both ends."""
    settings, screen = _settings(), Screen(as_json=as_json)
    pairs = _ask(settings, lambda rest: rest.stock())
    screen.result(pairs)
    rows = [
        {"may_allocate": kme, "for_keys_with": other, **(stock or {})}
        for peer, found in pairs.items()
        for kme, other, stock in (
            (settings.id, peer, found["here"]),
            (peer, settings.id, found["there"]),
        )
    ]
    columns = ("may_allocate", "for_keys_with", "n_blocks", "n_bytes", "n_keys", "settled")
    screen.table("keys of 256 bits in stock", rows, columns)
    silent = {peer: found["why_not"] for peer, found in pairs.items() if found["there"] is None}
    for peer, why in silent.items():
        screen.say(f"KME {peer} does not say: {why}")
    if silent:
        raise typer.Exit(NOT_WELL)


@app.command()
def status(*, as_json: JsonOption = False) -> None:
    """Show how things stand with each peer, and the latest alarms."""
    settings, screen = _settings(), Screen(as_json=as_json)
    found = _ask(settings, lambda rest: rest.status())
    screen.result(found)
    rows = [{"peer": peer, **state} for peer, state in found["peers"].items()]
    columns = ("peer", "is_alive", "settled", "peer_settled", "floor_allocate", "floor_draw")
    screen.table("peers", rows, columns)
    for row in rows:
        if row["reason"] is not None:
            screen.say(f"KME {row['peer']}: {row['reason']}")
    screen.table("latest alarms", found["incidents"], ("peer", "kind", "details"))
    if not all(row["is_alive"] for row in rows):
        raise typer.Exit(NOT_WELL)


@app.command()
def compare(*, peer: PeerOption = None, as_json: JsonOption = False) -> None:
    """Compare the stock with the peers', by tags that say nothing about the bytes."""
    settings, screen = _settings(), Screen(as_json=as_json)
    chosen = _chosen(settings, peer)

    async def ask(rest: RestClient) -> dict[str, dict[str, Any]]:
        return {kme: await rest.compare(kme) for kme in chosen}

    found = _ask(settings, ask)
    screen.result(found)
    rows = [
        {
            "peer": kme,
            "equal": one["n_equal"],
            "unequal": len(one["unequal"]),
            "only_here": len(one["absent_there"]),
            "used_up_here": len(one["absent_here"]),
        }
        for kme, one in found.items()
    ]
    columns = ("peer", "equal", "unequal", "only_here", "used_up_here")
    screen.table("blocks", rows, columns)
    unequal = [f"{kme}: {number}" for kme, one in found.items() for number in one["unequal"]]
    if unequal:
        screen.say(f"These blocks differ: {', '.join(unequal)}")
        screen.say("Next: keep the logs of both KMEs, find out why, then `make clear`.")
        raise typer.Exit(NOT_WELL)
    screen.say("What both KMEs have is equal.")


@app.command()
def clear(
    *,
    peer: PeerOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop all keys at both ends."""
    settings, screen = _settings(), Screen(as_json=as_json)
    chosen = _chosen(settings, peer)
    if not yes:
        typer.confirm(f"Drop all keys shared with {', '.join(chosen)}, at both ends?", abort=True)

    async def ask(rest: RestClient) -> dict[str, int]:
        return {kme: await rest.clear(kme) for kme in chosen}

    done = _ask(settings, ask)
    screen.result({"cleared_up_to": done})
    for kme, number in done.items():
        screen.say(f"All keys shared with KME {kme} are dropped, up to block {number}.")
    screen.say("Next: `make refill` makes more key.")


@app.command()
def restored() -> None:
    """Mark what Vault holds as an older copy; rest must not run."""
    settings = _settings()

    async def mark() -> None:
        async with vault_session(settings, "admin") as session:
            await mark_restored(Documents(session), random_token())

    asyncio.run(mark())
    typer.echo(f"What KME {settings.id} keeps is marked as an older copy.")
    typer.echo("Next: `make up`; it hands out keys again once its peers have agreed.")


@sae_app.command("add")
def add_sae(
    name: NameArgument,
    *,
    renew: Annotated[
        bool, typer.Option("--renew", help="Issue another certificate to an SAE that is there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Issue an SAE's certificate and register the SAE."""
    settings, screen, sae = _settings(), Screen(as_json=as_json), SaeId(name)

    async def issue() -> Path:
        async with vault_session(settings, "admin") as session:
            return await SaeOffice(settings, session).add(sae, renews=renew)

    folder = asyncio.run(issue())
    is_known = _reload(settings)
    screen.result({"sae": name, "folder": str(folder), "reloaded": is_known})
    screen.say(f"SAE {name}: sae.pem, sae-key.pem, sae.p12, password and root.pem in {folder}")
    screen.say("This KME and its peers know it within seconds." if is_known else _NOT_RUNNING)


@sae_app.command("revoke")
def revoke_sae(name: NameArgument, *, as_json: JsonOption = False) -> None:
    """Remove an SAE and revoke all its certificates."""
    settings, screen, sae = _settings(), Screen(as_json=as_json), SaeId(name)

    async def revoke() -> int:
        async with vault_session(settings, "admin") as session:
            return await SaeOffice(settings, session).revoke(sae)

    n_revoked = asyncio.run(revoke())
    free_s = SystemClock().now_s() + settings.hold_s
    is_known = _reload(settings)
    screen.result({"sae": name, "certificates_revoked": n_revoked, "reloaded": is_known})
    screen.say(f"SAE {name} is removed, {n_revoked} of its certificates are revoked.")
    screen.say("This KME refuses it within seconds." if is_known else _NOT_RUNNING)
    free = datetime.fromtimestamp(free_s, UTC)
    screen.say(f"Its id is free again when no key for it is left, {free:%Y-%m-%d %H:%M} UTC.")


@sae_app.command("list")
def list_saes(*, as_json: JsonOption = False) -> None:
    """List this KME's SAEs and those of its peers."""
    settings, screen = _settings(), Screen(as_json=as_json)

    async def look() -> list[dict[str, Any]]:
        async with vault_session(settings, "inspect") as session:
            registry = SaeRegistry(settings.kme, Documents(session), SystemClock(), settings.hold_s)
            registers = {settings.kme: await registry.own()}
            registers |= await registry.of_peers(settings.peers)
        return [
            {"kme": str(kme), **told_of_sae(str(sae), entry)}
            for kme, register in registers.items()
            for sae, entry in sorted(register.items())
        ]

    rows = asyncio.run(look())
    screen.result({"saes": rows})
    screen.table("SAEs", rows, ("sae", "kme", "since", "removed", "certificates"))


@snapshot_app.command("take")
def take_snapshot() -> None:
    """Leave a backup of all that Vault holds where `make backup` fetches it."""
    facts = asyncio.run(backups.take(_settings()))
    _show_snapshot(facts)


@snapshot_app.command("receive")
def receive_snapshot(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="- is standard input.")],
) -> None:
    """Check a backup, and keep it for `snapshot restore`."""
    facts = backups.receive(_settings(), file)
    _show_snapshot(facts)


@snapshot_app.command("restore")
def restore_snapshot() -> None:
    """Put Vault back to the backup that was received; rest and watcher must not run."""
    settings = _settings()
    try:
        changes = asyncio.run(backups.put_back(settings))
    except backups.UnchangedError as error:
        typer.echo(f"operator: {error}", err=True)
        raise typer.Exit(UNCHANGED) from error
    typer.echo(f"Vault is as it was, and what KME {settings.id} keeps is marked as an older copy.")
    for sae in changes.saes_again:
        typer.echo(f"SAE {sae}: certificates that were revoked since are believed again!")
        typer.echo(f"    Unless you want that: make revoke-sae NAME={sae}")
    for kme in changes.peers_again:
        typer.echo(f"KME {kme} was disconnected since and is connected again!")
        typer.echo(f"    Unless you want that: make disconnect KME={kme}")
    for sae in changes.saes_gone:
        typer.echo(f"SAE {sae} was registered since and is not any more: make sae NAME={sae}")
    for kme in changes.peers_gone:
        typer.echo(f"KME {kme} was connected since and is not any more: make connect PEER=FILE")


@app.command()
def bundle() -> None:
    """Print what the other KME's operator needs to connect; nothing in it is secret."""
    own = asyncio.run(trust.own_bundle(_settings()))
    typer.echo(own.to_json(), nl=False)
    typer.echo(f"Fingerprint of this KME's bundle: {own.fingerprint()}", err=True)


@app.command()
def connect(
    file: BundleArgument,
    *,
    show: Annotated[
        bool, typer.Option("--show", help="Check and show it only; nothing changes.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="The fingerprint was compared already: do not ask.")
    ] = False,
    fingerprint: Annotated[
        str, typer.Option(help="What the other operator told you; it must be the bundle's.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="The KME was set up anew: believe its new authority.")
    ] = False,
) -> None:
    """Trust another KME, after its fingerprint was compared."""
    settings, offered = _settings(), trust.load_bundle(file)
    asyncio.run(trust.check_offered(settings, offered, replaces=replace))
    _show_bundle(offered)
    if show:
        return
    if fingerprint:
        trust.check_fingerprint(offered, fingerprint)
    elif not yes:
        if str(file) == "-":
            raise InputError("give --fingerprint with what the other operator told you")
        typer.confirm("Is this the fingerprint that the other operator told you?", abort=True)
    asyncio.run(trust.connect(settings, offered))
    typer.echo(f"KME {offered.kme} is connected.")
    _reload(settings)
    typer.echo("Next: connect this KME there too, then `make up` here and there, and `make keys`.")


@app.command()
def disconnect(
    kme: Annotated[str, typer.Argument(metavar="KME", help="Id of the other KME.")],
) -> None:
    """Trust another KME no more, for now: keys shared with it stay; `retire` burns them."""
    settings = _settings()
    asyncio.run(trust.disconnect(settings, KmeId(kme)))
    typer.echo(f"KME {kme} is disconnected.")
    typer.echo("Next: `make up`, so that rest and traefik forget it too.")


@app.command()
def retire(
    kme: Annotated[str, typer.Argument(metavar="KME", help="Id of the other KME.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Burn here all keys shared with a KME that is gone for good; it isn't asked."""
    settings, screen = _settings(), Screen(as_json=as_json)
    (peer,) = _chosen(settings, kme)
    if not yes:
        typer.confirm(f"Burn all keys shared with KME {peer}, for good?", abort=True)
    number = _ask(settings, lambda rest: rest.retire(peer))
    screen.result({"retired": str(peer), "burnt_up_to": number})
    screen.say(f"All keys shared with KME {peer} are burnt here, up to block {number}.")
    screen.say(f"Next: `disconnect {peer}`, then take it out of KME_LINKS.")


_NOT_RUNNING: Final = "The rest service does not run now; it will know when it does."


def _settings() -> OperatorSettings:
    settings = load(OperatorSettings)
    set_up_logging("WARNING", settings.log.format)
    return settings


def _ask(settings: OperatorSettings, question: Callable[[RestClient], Awaitable[_T]]) -> _T:
    """Ask the rest service."""

    async def ask() -> _T:
        async with RestClient(settings) as rest:
            return await question(rest)

    return asyncio.run(ask())


def _reload(settings: OperatorSettings) -> bool:
    """Have news taken up at once; without it they are soon."""
    try:
        _ask(settings, lambda rest: rest.reload())
    except KmeError:
        return False
    return True


def _chosen(settings: OperatorSettings, peer: str | None) -> list[KmeId]:
    if peer is None:
        return list(settings.peers)
    if peer not in settings.peers:
        raise InputError(f"--peer {peer}: must be one of {', '.join(settings.peers)}")
    return [KmeId(peer)]


def _show_snapshot(facts: SnapshotFacts) -> None:
    typer.echo(f"Backup of Vault after write {facts.index}: {facts.n_bytes} bytes of data")


def _show_bundle(offered: Bundle) -> None:
    authority = offered.authority
    typer.echo(f"KME          {offered.kme}")
    typer.echo(f"site         {offered.site}")
    typer.echo(f"for KMEs     {offered.peer_url}")
    typer.echo(f"for SAEs     {offered.sae_url}")
    typer.echo(f"authority    {shown_subject(authority)}")
    typer.echo(f"valid until  {authority.not_valid_after_utc:%Y-%m-%d}")
    typer.echo(f"fingerprint  {offered.fingerprint()}")


def main() -> NoReturn:
    """Run a command; what a person can cause ends in one line and exit code 1."""
    app.add_typer(sae_app, name="sae")
    app.add_typer(snapshot_app, name="snapshot")
    with one_line_errors("operator"):
        app(prog_name="operator")
    raise SystemExit(0)
