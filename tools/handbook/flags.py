"""Tables of all flags, from the settings of each program."""

import ast
import inspect
import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Final

import mic.startup.settings
import nmi.settings
from nmi.settings import FORMER_FLAGS
from podidentity.flags import duration_text, go_duration
from podidentity.settings import REQUIRED, VERBOSITY, GoSetting, ProgramSettings, Setting, flags_of
from tools.handbook.tables import table

PROGRAMS: Final[Mapping[str, type[ProgramSettings]]] = {
    "nmi": nmi.settings.Settings,
    "mic": mic.startup.settings.Settings,
}


def made() -> str:
    """Return the generated part of docs/flags.md."""
    tables = (f"## {name}\n\n{_table(program)}" for name, program in PROGRAMS.items())
    former = table(["flag", "instead"], [[f"`--{flag}`", _sentence(text)] for flag, text in FORMER_FLAGS.items()])
    advice = "NMI accepts these former flags with any value, and warns about each when it serves. Remove them."
    return "\n\n".join((*tables, f"## Flags without effect\n\n{advice}\n\n{former}"))


def _docstrings(program: type[ProgramSettings]) -> dict[str, str]:
    """Return the docstrings of the fields that have one, each in one line."""
    docstrings = {}
    for part in program.__mro__:
        if not issubclass(part, ProgramSettings):
            continue
        (body,) = (node.body for node in ast.parse(inspect.getsource(part)).body if isinstance(node, ast.ClassDef))
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                docstrings[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docstrings


def _table(program: type[ProgramSettings]) -> str:
    docstrings, flags = _docstrings(program), flags_of(program)
    # A sysctl has the name of this field, and texts name the sysctl.
    names = {setting.name: setting.flag for setting in flags if setting.name != "route_localnet"}
    rows = [
        [
            f"`--{setting.flag}`" + (f", `{setting.alias}`" if setting.alias else ""),
            _default(setting),
            f"{_with_flags(docstrings.get(setting.name, _sentence(setting.help)), names)} {_limits(setting)}".rstrip(),
            _reference(setting),
        ]
        for setting in flags
    ]
    return table(["flag", "default", "effect", "Go implementation"], rows)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _default(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return "required"
    text = setting.spelled(setting.default)
    return f"`{text}`" if text else ""


def _limits(setting: Setting) -> str:
    if isinstance(setting.default, StrEnum):
        return f"One of {', '.join(f'`{choice}`' for choice in type(setting.default))}."
    if setting.range is None or setting.range == VERBOSITY:
        return ""
    if setting.read is go_duration:
        return f"From {duration_text(setting.range.least)} to {duration_text(setting.range.greatest)}."
    return f"From {setting.range.least:.12g} to {setting.range.greatest:.12g}."


def _with_flags(text: str, names: Mapping[str, str]) -> str:
    """Return *text* with flags instead of the fields that it names. A field of one word may be an ordinary word."""
    return re.sub(
        r"\b[a-z]+(?:_[a-z]+)+\b", lambda match: f"`--{names[match[0]]}`" if match[0] in names else match[0], text
    )


def _reference(setting: Setting) -> str:
    if not isinstance(setting, GoSetting):
        return ""
    return f"yes, default `{setting.go_default}`" if setting.go_default else "yes"
