"""settings_page - the settings in, the page that explains each of them out."""

from enum import StrEnum
from pathlib import Path
from typing import Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kme.settings import KmeSettings

_PREFACE: Final = """\
# Configuration

One TOML file per KME, for `kme run --config FILE`; `kme check-config FILE` says what is wrong with
one. Relative paths start at the file's folder. A variable of the environment wins over the file:
`KME_` and the name, with `__` between levels (`KME_LOG__LEVEL=DEBUG`). Unknown names are errors.
`kme serve` writes two complete examples. The appliance has no such file: see
[its part](#the-appliance-a-sites-env).

This page is made from `kme.settings`, `kme.appliance` and `.env.example` by `make docs`; edit the
descriptions there.
"""

_SITE_PREFACE: Final = """
## The appliance: a site's `.env`

What an operator chooses for one KME; `make check-config` says what is wrong with it. A variable of
the environment wins over the file.

| name | example or default | meaning |
|---|---|---|"""

_SERVICES_PREFACE: Final = """
## The appliance: its services

Variables of the containers; the Compose files set those that `.env` decides, and the defaults fit
the rest. Another value comes from a Compose file of your own (`KME_COMPOSE_FILE`), under
`environment` of the service. Secrets are files, never values.

### Shared

| variable | type | default | meaning | read by |
|---|---|---|---|---|"""

_WITHOUT_APPLIANCE: Final = """
## The appliance: its services

To see them, install the extra `appliance` beside this program (`make setup` does), and run this
again.
"""

_SITE_EXAMPLE: Final = Path(__file__).parents[2] / ".env.example"
"""Of the checkout that this runs from; an installed wheel has none."""

_KINDS: Final[dict[object, str]] = {
    Path: "path",
    str: "text",
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
}

_Row = tuple[str, str, str, str]
"""Name, type, default, meaning."""


def describe_settings() -> str:
    """Return the page that explains every setting, in Markdown."""
    lines = [_PREFACE, *_section_lines(KmeSettings, "", "Top level")]
    if _SITE_EXAMPLE.is_file():
        lines += [_SITE_PREFACE, *_site_lines(_SITE_EXAMPLE.read_text("utf-8"))]
    services = _services()
    lines += _service_lines(services) if services else [_WITHOUT_APPLIANCE.rstrip("\n")]
    return "\n".join(lines) + "\n"


def _section_lines(section: type[BaseModel], place: str, title: str) -> list[str]:
    """Return one table for a section, then those of the sections inside it."""
    lines = [f"## {title}\n", "| name | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in section.model_fields.items():
        shown = field.alias or name
        below = f"{place}.{shown}" if place else shown
        deeper = _section_in(field.annotation)
        kind = _kind(field.annotation)
        if deeper is not None:
            kind = f"`[[{below}]]`" if get_origin(field.annotation) is list else f"`[{below}]`"
            inner += ["", *_section_lines(deeper, below, kind)]
        default = _default(field, is_section=deeper is not None)
        lines.append(f"| `{shown}` | {kind} | {default} | {field.description} |")
    return lines + inner


def _site_lines(example: str) -> list[str]:
    """Return a row for each paragraph of the example that sets something."""
    lines = []
    for paragraph in example.split("\n\n"):
        words: list[str] = []
        names: list[str] = []
        values: list[str] = []
        for line in paragraph.splitlines():
            name, is_set, value = line.removeprefix("#").partition("=")
            if is_set and name.startswith("KME_") and name.isupper():
                names.append(f"`{name}`")
                values.append(f"`{value}`" if value else "none")
            else:
                words.append(line.removeprefix("#").strip())
        if names:
            cells = (", ".join(names), ", ".join(values), " ".join(words))
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _services() -> dict[str, type[BaseModel]]:
    """Return each service's settings; none where Vault's client is not installed."""
    try:
        # Some of them need the extra `appliance`, which an embedded KME runs without.
        from kme.appliance.certauth import CertauthSettings  # noqa: PLC0415
        from kme.appliance.notifier import NotifierSettings  # noqa: PLC0415
        from kme.appliance.operator.settings import OperatorSettings  # noqa: PLC0415
        from kme.appliance.qkd import QkdSettings  # noqa: PLC0415
        from kme.appliance.rest.settings import RestSettings  # noqa: PLC0415
        from kme.appliance.unsealer import UnsealerSettings  # noqa: PLC0415
        from kme.appliance.vault_init import VaultInitSettings  # noqa: PLC0415
        from kme.appliance.watcher import WatcherSettings  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "kme":
            raise
        return {}
    return {
        "certauth": CertauthSettings,
        "vault_init": VaultInitSettings,
        "unsealer": UnsealerSettings,
        "qkd": QkdSettings,
        "notifier": NotifierSettings,
        "watcher": WatcherSettings,
        "rest": RestSettings,
        "operator": OperatorSettings,
    }


def _service_lines(services: dict[str, type[BaseModel]]) -> list[str]:
    """Return what several services read alike, then a table for each service."""
    readers: dict[_Row, list[str]] = {}
    for service, settings in services.items():
        for row in _variables(settings, "KME_"):
            readers.setdefault(row, []).append(service)
    lines = [_SERVICES_PREFACE]
    for row, names in readers.items():
        if len(names) > 1:
            who = "all" if len(names) == len(services) else ", ".join(names)
            lines.append("| " + " | ".join((*row, who)) + " |")
    for service in services:
        own = [row for row, names in readers.items() if names == [service]]
        lines += [
            f"\n### {service}\n",
            "| variable | type | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in own]
    return lines


def _variables(section: type[BaseModel], prefix: str) -> list[_Row]:
    """Return a row for each variable of the environment that a section reads."""
    rows: list[_Row] = []
    for name, field in section.model_fields.items():
        variable = prefix + name.upper()
        deeper = _section_in(field.annotation)
        if deeper is not None:
            rows += _variables(deeper, f"{variable}__")
        else:
            kind = _kind(field.annotation, otherwise="text")
            default = _default(field, is_section=False)
            rows.append((f"`{variable}`", kind, default, str(field.description)))
    return rows


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field holds, alone or in a list."""
    kind = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _kind(annotation: object, otherwise: str = "list") -> str:
    kind = next(kind for kind in (*get_args(annotation), annotation) if kind is not type(None))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(f"`{word}`" for word in kind)
    return _KINDS.get(kind, otherwise)


def _default(field: FieldInfo, *, is_section: bool) -> str:
    if field.is_required():
        return "required"
    if is_section:
        return "see there"
    return "none" if field.default in {None, ""} else f"`{field.default}`"
