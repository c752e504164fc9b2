"""Tables of all flags: names from a program's flag table, defaults and descriptions from its settings."""

import ast
import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Final

import mic.startup.settings
import nmi.settings
from mic.startup.flag_table import FLAGS as MIC_FLAGS
from mic.startup.settings import RANGES as MIC_RANGES
from nmi.flag_table import FLAGS as NMI_FLAGS
from nmi.setting_rules import RANGES as NMI_RANGES
from podidentity.flags import Flag, duration_text, go_duration
from tools.handbook import known
from tools.handbook.tables import table

REQUIRED: Final = "required"


@dataclass(frozen=True)
class Program:
    """Sources of one program's table."""

    name: str
    flags: Sequence[Flag]
    settings: ModuleType
    theirs: Collection[str]
    """Flags that the Go implementation also has."""
    ranges: Mapping[str, tuple[float, float]]


PROGRAMS: Final = (
    Program("nmi", NMI_FLAGS, nmi.settings, known.NMI_FLAGS, NMI_RANGES),
    Program("mic", MIC_FLAGS, mic.startup.settings, known.MIC_FLAGS, MIC_RANGES),
)


def made() -> str:
    """Return the generated part of docs/flags.md."""
    return "\n\n".join(f"## {program.name}\n\n{_table(program)}" for program in PROGRAMS)


def meanings(settings: ModuleType) -> dict[str, str]:
    """Return the docstring of each field of *settings*' Settings, in one line."""
    (shape,) = (
        each
        for each in ast.parse(inspect.getsource(settings)).body
        if isinstance(each, ast.ClassDef) and each.name == "Settings"
    )
    said = {}
    for field, text in zip(shape.body, shape.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            said[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return said


def _table(program: Program) -> str:
    said = meanings(program.settings)
    defaults: Mapping[str, object] = program.settings.DEFAULTS
    names = {flag.field: flag.name for flag in program.flags}
    rows = [
        [
            f"`--{flag.name}`" + "".join(f", `{alias}`" for alias in flag.aliases),
            _default(flag, defaults),
            " ".join(filter(None, (_with_flags(said[flag.field], names), _limits(flag, program, defaults)))),
            _reference(flag, program),
        ]
        for flag in program.flags
    ]
    return table(["flag", "default", "effect", "Go implementation"], rows)


def _default(flag: Flag, defaults: Mapping[str, object]) -> str:
    if flag.field not in defaults:
        return REQUIRED
    text = flag.spelled(defaults[flag.field])
    return f"`{text}`" if text else ""


def _limits(flag: Flag, program: Program, defaults: Mapping[str, object]) -> str:
    default = defaults.get(flag.field)
    if isinstance(default, StrEnum):
        return f"One of {', '.join(f'`{choice}`' for choice in type(default))}."
    if flag.field not in program.ranges:
        return ""
    least, most = program.ranges[flag.field]
    if flag.read is go_duration:
        return f"From {duration_text(least)} to {duration_text(most)}."
    return f"From {least:.12g} to {most:.12g}." if most < 2**31 - 1 else ""


def _with_flags(text: str, names: Mapping[str, str]) -> str:
    """Return *text* with flags instead of the fields that it names. A field of one word may be an ordinary word."""
    return re.sub(
        r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: f"`--{names[found[0]]}`" if found[0] in names else found[0], text
    )


def _reference(flag: Flag, program: Program) -> str:
    if flag.name not in program.theirs:
        return ""
    other = known.OTHER_DEFAULTS.get(flag.name)
    return f"yes, default `{other}`" if other else "yes"
