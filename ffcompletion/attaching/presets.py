"""Presets: definitions of well-known libraries' tables, as data; somebody else's is ten lines in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import msgspec

from ffcompletion.attaching.definition import Definition
from ffcompletion.contract.errors import Validation

__all__ = ["load_preset", "preset", "preset_names"]


def preset_names() -> list[str]:
    """The presets that come along."""
    found = (entry.name for entry in files("ffcompletion.attaching").joinpath("presets").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def preset(name: str | None, /, **changes: object) -> Definition:
    """A preset that comes along, with these fields changed; None is none, all fields are given. Raises ``Validation``."""
    if name is None:
        return _definition("the table", "", changes)
    if name not in preset_names():
        raise Validation("preset", f"there is none of this name; there are {', '.join(preset_names())}")
    text = files("ffcompletion.attaching").joinpath("presets").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return _definition(name, text, changes)


def load_preset(path: str | Path, /, **changes: object) -> Definition:
    """A preset from a TOML file of the same form. Raises ``Validation``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as exc:
        raise Validation("preset file", f"cannot read {path}: {getattr(exc, 'strerror', None) or 'not text'}") from exc
    return _definition(str(path), text, changes)


def _definition(shown: str, text: str, changes: Mapping[str, object]) -> Definition:
    try:
        return msgspec.convert({**tomllib.loads(text), **changes}, Definition).checked()
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as exc:
        raise Validation("preset", f"{shown}: {exc}") from exc
