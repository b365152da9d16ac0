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
`kme serve` writes two complete examples.

This page is made from `kme.settings` by `make docs`; edit the descriptions there.
"""

_KINDS: Final[dict[object, str]] = {
    Path: "path",
    str: "text",
    int: "whole number",
    float: "number",
}


def describe_settings() -> str:
    """Return the page that explains every setting, in Markdown."""
    return "\n".join([_PREFACE, *_section_lines(KmeSettings, "", "Top level")]) + "\n"


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


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field holds, alone or in a list."""
    kind = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _kind(annotation: object) -> str:
    kind = next(kind for kind in (*get_args(annotation), annotation) if kind is not type(None))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return " or ".join(f"`{word}`" for word in kind)
    return _KINDS.get(kind, "list")


def _default(field: FieldInfo, *, is_section: bool) -> str:
    if field.is_required():
        return "required"
    if is_section:
        return "see there"
    return "none" if field.default is None else f"`{field.default}`"
