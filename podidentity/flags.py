"""Command lines in Go's manner, because people's charts and unit files already hold such lines for the reference.

Here lives the grammar (`--flag=value`, `--flag value`, `-flag`, booleans with or without a value, Go's durations) on
top of argparse, and the shape of a program's table of flags. Which flags exist and what they mean together belongs to
each program's `settings`; printing an error and exiting belongs to `exits`: nothing here does either.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_LONGEST_NS = 2**63 - 1
"""Go keeps a duration in an int64 of nanoseconds: about 292 years."""
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_QUOTED_MAX = 60
"""Characters of a wrong value that an error repeats: one line stays one readable line."""


class UsageError(Exception):
    """The command line cannot be used. Its text is one line that says what to do; a program's `cli` exits 2 with it."""


def go_bool(text: str) -> bool:
    """What Go's strconv.ParseBool says; raises argparse.ArgumentTypeError for everything that it does not take."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{quoted(text)} is neither true nor false")


def go_int(text: str) -> int:
    """A whole number as Go's flags take it: decimal, or with 0x, 0o, 0b; raises argparse.ArgumentTypeError."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number") from None


def go_duration(text: str) -> float:
    """Seconds in a duration as Go's time.ParseDuration reads it ("1h30m", "500ms", "-1.5s", "0").

    Raises argparse.ArgumentTypeError: also for a number without a unit, which Go refuses except for 0.
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    parts = list(_PART.finditer(digits))
    if not parts or sum(len(part.group()) for part in parts) != len(digits):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits, re.ASCII):
            raise argparse.ArgumentTypeError(f"{quoted(text)} lacks a unit; write {digits[:_QUOTED_MAX]}s for seconds")
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a duration; write one like 45s, 500ms or 1h30m")
    nanoseconds = sum(float(part[1]) * _NANOSECONDS[part[2]] for part in parts)
    if nanoseconds > _LONGEST_NS:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is longer than a duration can be (292 years)")
    return sign * nanoseconds / 1e9


def quoted(text: str) -> str:
    """*text* in quotes, escaped, and cut: fit for an error of one line whatever it held."""
    return repr(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "…")


def comma_list(text: str) -> tuple[str, ...]:
    """The parts of *text* between its commas, without spaces around them; empty ones do not count."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


Choice = TypeVar("Choice", bound=StrEnum)


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """A reader of *choices* that takes any case, as the reference does for --operation-mode."""

    def read(text: str) -> Choice:
        for choice in choices:
            if text.lower() == choice.value:
                return choice
        raise argparse.ArgumentTypeError(f"{quoted(text)} is none of {', '.join(choices)}")

    return read


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a program, and the field of its Settings that it fills."""

    name: str
    """As the reference spells it, inconsistencies included: people's charts depend on it."""
    field: str
    read: Callable[[str], Any]
    help: str
    aliases: tuple[str, ...] = ()


def read_flags(flags: Iterable[Flag], argv: Sequence[str], *, prog: str, description: str) -> dict[str, Any]:
    """The values that *argv* (without the program's name) gives, by field; flags left out are not in it.

    Raises UsageError; SystemExit(0) after printing --help.
    """
    parser = GoParser(prog=prog, description=description)
    for flag in flags:
        names = (*flag.aliases, f"--{flag.name}")
        parser.add_argument(*names, dest=flag.field, type=flag.read, default=None, metavar="…", help=flag.help)
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def namespaced_by(environ: Mapping[str, str]) -> bool:
    """Whether FORCENAMESPACED is set there, which both programs obey whatever their flag says, as in the reference.

    Raises UsageError for what is neither true nor false: ignoring it would open more.
    """
    text = environ.get("FORCENAMESPACED", "")
    if text.lower() not in {"", "true", "false", "1", "0"}:
        raise UsageError(f"the environment has FORCENAMESPACED={quoted(text)}; set it to true or false")
    return text.lower() in {"true", "1"}


class GoParser(argparse.ArgumentParser):
    """An ArgumentParser that reads Go's flags and raises UsageError where argparse would print usage and exit.

    Flags are added with add_argument("--name", type=...); one whose type is `go_bool` may stand without a value. Given
    twice, the last one counts, as in Go. A boolean followed by a separate true or false takes it as its value (Go's
    own packages stop reading there, which silently drops the rest of the line). There are no positional arguments.
    """

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    @override
    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """The namespace for *args* (without the program's name). Raises UsageError; SystemExit(0) after --help only."""
        if args is None:
            raise UsageError("no arguments were given to the parser")  # sys.argv is the caller's to read
        return super().parse_args(list(self._spelled_out(args)), namespace)

    @override
    def error(self, message: str) -> NoReturn:
        """Raise UsageError with *message* in one line."""
        line = " ".join(message.removeprefix("argument ").split())
        raise UsageError(f"{line} (see {self.prog} --help)")

    def _spelled_out(self, args: Iterable[str]) -> Iterator[str]:
        """Each flag of *args* in the one spelling that argparse cannot misread: --name=value."""
        left = list(args)[::-1]
        while left:
            word = left.pop()
            if not word.startswith("-") or word in ("-", "--"):
                if word == "--" and not left:
                    return
                self.error(f"unexpected argument {quoted(word)}: everything here is a flag that begins with --")
            name, has_value, value = word.removeprefix("-").removeprefix("-").partition("=")
            action = self._flag(name)
            if action.nargs == 0:
                if has_value:
                    self.error(f"--{name} takes no value")
                yield action.option_strings[0]
                continue
            if not has_value:
                if action.type is go_bool:
                    value = left.pop() if left and left[-1] in _TRUE | _FALSE else "true"
                elif left:
                    value = left.pop()
                else:
                    self.error(f"--{name} needs a value: --{name}=…")
            yield f"{action.option_strings[0]}={value}"

    def _flag(self, name: str) -> argparse.Action:
        """The flag called *name*, without dashes; raises UsageError naming the closest one that exists."""
        known = {text.lstrip("-"): action for action in self._actions for text in action.option_strings}
        if name not in known:
            folded = {text.lower(): text for text in known}
            close = difflib.get_close_matches(name.lower(), folded, n=1)
            advice = f"; did you mean --{folded[close[0]]}?" if close else ""
            self.error(f"unknown flag --{quoted(name)[1:-1]}{advice}")
        return known[name]
