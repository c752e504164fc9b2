"""The texts about settings in `--help` and docs/flags.md, which are the only users of this module.

The text of a setting is the docstring of its field, or of its type in `podidentity.daemon_settings`. A comment after an
empty line is the heading of the group that begins there. Python keeps neither, so they are read from the source, which
is in wheels and images, too.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Final

from podidentity import daemon_settings
from podidentity.flags import duration_text, go_duration
from podidentity.settings import REQUIRED, VERBOSITY, ProgramSettings, Setting, flags_of, settings_of

WITHOUT_EFFECT: Final = "Without effect"
"""The last group. It has the former flags, too."""


def help_of(program: type[ProgramSettings], former_flags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the text of each flag for `--help`, with its default, by its group and the name of its field."""
    effects = effects_of(program)
    former = {flag: sentence(instead) for flag, instead in former_flags.items()}
    texts = {"": {"help": "Print this text, and exit."}}
    for group, flags in groups_of(program).items():
        texts[group] = {setting.name: f"{effects[setting.name]}{_default(setting)}" for setting in flags}
    return texts | {WITHOUT_EFFECT: {**texts.get(WITHOUT_EFFECT, {}), **former}}


def sentence(text: str) -> str:
    """Return *text* as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def groups_of(program: type[ProgramSettings]) -> dict[str, list[Setting]]:
    """Return the flags by the heading of their group, in the order of the table."""
    headings: dict[str, str] = {}
    for part in program.__mro__:
        if issubclass(part, ProgramSettings):
            heading = ""
            for before, line in pairwise(inspect.getsource(part).splitlines()):
                if not before and line.startswith("    # "):
                    heading = line.strip(" #.")
                elif field := re.match(r"    (\w+): ", line):
                    headings[field[1]] = heading
    groups: dict[str, list[Setting]] = {}
    for setting in flags_of(program):
        groups.setdefault(headings[setting.name], []).append(setting)
    return groups


def effects_of(program: type[ProgramSettings]) -> dict[str, str]:
    """Return the effect of each setting and the values that it may have, in one line, by the name of its field."""
    of_daemons = dict(_docstrings(ast.parse(inspect.getsource(daemon_settings)), {}))
    docstrings: dict[str, str] = {}
    for part in program.__mro__:
        if issubclass(part, ProgramSettings):
            (definition,) = ast.parse(inspect.getsource(part)).body
            docstrings |= _docstrings(definition, of_daemons)
    return {setting.name: f"{docstrings[setting.name]} {_values(setting)}".rstrip() for setting in settings_of(program)}


def _docstrings(parent: ast.AST, of_daemons: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of each annotated name; without a docstring, that of its type in *of_daemons*."""
    for field, following in pairwise((*ast.iter_child_nodes(parent), ast.Pass())):
        match field, following:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(docstring))):
                yield name, " ".join(docstring.split())
            case ast.AnnAssign(target=ast.Name(name), annotation=ast.Attribute(attr=of_daemon)), _:
                yield name, of_daemons[of_daemon]


def _default(setting: Setting) -> str:
    return f" (default {default})" if (default := default_of(setting)) else ""


def default_of(setting: Setting) -> str:
    """Return the default in the syntax of the flag; empty if there is none."""
    match setting.default:
        case None:
            return ""
        case bool(on):
            return str(on).lower()
        case int(seconds) | float(seconds) if setting.read is go_duration:
            return duration_text(seconds)
        case float(number):
            return f"{number:g}"
        case frozenset() | tuple() as parts:
            return ",".join(sorted(map(str, parts)))
        case default:
            return "" if default is REQUIRED else str(default)


def _values(setting: Setting) -> str:
    if isinstance(setting.default, StrEnum):
        return f"One of {', '.join(f'`{choice}`' for choice in type(setting.default))}."
    if isinstance(setting.default, tuple | frozenset):
        return "Separated by commas."
    if setting.range is None or setting.range == VERBOSITY:
        return ""
    if setting.read is go_duration:
        return f"From {duration_text(setting.range.least)} to {duration_text(setting.range.greatest)}."
    return f"From {setting.range.least:.12g} to {setting.range.greatest:.12g}."
