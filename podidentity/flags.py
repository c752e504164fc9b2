"""Command lines in Go's syntax, which existing charts and unit files of the Go implementation use.

This module contains the grammar (`--flag=value`, `--flag value`, `-flag`, booleans with or without a value, Go's
durations) on top of argparse. `podidentity.settings` derives flags from a program's settings; `exits` prints errors.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""Go stores a duration in an int64 of nanoseconds: about 292 years."""
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_QUOTED_MAX = 60
"""Characters of a wrong value that an error repeats, so that it stays one readable line."""


class UsageError(Exception):
    """The command line cannot be used. The text is one line with the next action; a program's `cli` exits with
    code 2.
    """

    def __init__(self, text: str, usable: Mapping[str, Any] | None = None) -> None:
        """*usable*: the values of the flags without a fault, by field, if they are known."""
        super().__init__(text)
        self.usable: Mapping[str, Any] = usable or {}


def go_bool(text: str) -> bool:
    """Return the value by Go's strconv.ParseBool. Raises argparse.ArgumentTypeError for other text."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{quoted(text)} is neither true nor false")


def go_int(text: str) -> int:
    """Return a whole number in Go's flag syntax: decimal, or with 0x, 0o, 0b. Raises argparse.ArgumentTypeError."""
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number") from None


def go_duration(text: str) -> float:
    """Return the seconds of a duration in the syntax of Go's time.ParseDuration ("1h30m", "500ms", "-1.5s", "0").

    Raises argparse.ArgumentTypeError, also for a number without a unit, which Go rejects except for 0.
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    # finditer() skips text that is no part, so the lengths are compared.
    parts = list(_PART.finditer(digits))
    if not parts or sum(len(part.group()) for part in parts) != len(digits):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits, re.ASCII):
            raise argparse.ArgumentTypeError(f"{quoted(text)} lacks a unit; write {digits[:_QUOTED_MAX]}s for seconds")
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a duration; write one like 45s, 500ms or 1h30m")
    nanoseconds = sum(float(part[1]) * _NANOSECONDS[part[2]] for part in parts)
    if nanoseconds > _LONGEST_NS:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is longer than a duration can be (292 years)")
    return sign * nanoseconds / 1e9


_UNITS = ((3600, "h"), (60, "m"), (1, "s"))


def duration_text(seconds: float) -> str:
    """Return *seconds* in the syntax of Go's flags, in the largest unit in which they are a whole number."""
    if not seconds:
        return "0"
    for size, unit in _UNITS:
        if seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms"


def quoted(text: str) -> str:
    """Return *text* quoted, escaped and cut, so that an error stays one line."""
    return repr(text if len(text) <= _QUOTED_MAX else text[:_QUOTED_MAX] + "…")


def comma_list(text: str) -> tuple[str, ...]:
    """Return the parts of *text* between commas, stripped and without empty ones."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


Choice = TypeVar("Choice", bound=StrEnum)


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser of *choices* that ignores case, as the Go implementation does for --operation-mode."""

    def read(text: str) -> Choice:
        for choice in choices:
            if text.lower() == choice.value.lower():
                return choice
        raise argparse.ArgumentTypeError(f"{quoted(text)} is none of {', '.join(choices)}")

    return read


HelpTexts = Mapping[str, Mapping[str, str]]


class GoParser(argparse.ArgumentParser):
    """An ArgumentParser for Go's flags that raises UsageError where argparse would print usage and exit.

    Flags are added with add_argument("--name", type=...). A flag of type `go_bool` may omit its value. The last
    occurrence of a flag counts, as in Go. A boolean followed by a separate true or false takes it as its value (Go's
    own packages stop parsing there, which silently drops the rest of the line). There are no positional arguments.
    """

    def __init__(
        self, *, prog: str, description: str, texts: Callable[[], HelpTexts] = dict[str, dict[str, str]]
    ) -> None:
        """*texts* returns the texts of --help by the heading of a group and the name of the value that a flag sets."""
        # Go has no abbreviations. One would become ambiguous when a flag is added.
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self._texts = texts
        self._former: set[str] = set()

    def add_former_flag(self, flag: str) -> None:
        """Accept the former *flag* with any value."""
        self._former.add(flag)
        self.add_argument(f"--{flag}", dest=flag, type=str, default=None, metavar="…")

    @override
    def print_help(self, file: Any = None) -> None:
        """Print the help. Raise OSError if it cannot be written, which argparse ignores."""
        (file or sys.stdout or sys.stderr).write(self.format_help())

    @override
    def format_help(self) -> str:
        """Return the output of --help."""
        actions = {action.dest: action for action in self._actions}
        formatter = self._get_formatter()
        formatter.add_usage("%(prog)s [--flag=value …]", (), ())
        formatter.add_text(self.description)
        for heading, texts in self._texts().items():
            formatter.start_section(heading or None)
            for name, text in texts.items():
                actions[name].help = text.replace("%", "%%")
                formatter.add_argument(actions[name])
            formatter.end_section()
        return formatter.format_help()

    @override
    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Return the namespace for *args* (without the program's name). Raises UsageError, and SystemExit(0) only after
        --help.
        """
        if args is None:
            raise UsageError("no arguments were given to the parser")  # only the caller reads sys.argv
        given = list(args)
        try:
            return super().parse_args(list(self._spelled_out(given)), namespace)
        except UsageError as first:
            # argparse stops at the first fault. A pod's operator needs all, since each attempt is a restart.
            usable: dict[str, Any] = {}
            problems = list(dict.fromkeys(self._problems(given, usable))) or [str(first).removesuffix(self._see_help)]
            raise UsageError("; ".join(problems) + self._see_help, usable) from None

    @override
    def error(self, message: str) -> NoReturn:
        """Raise UsageError with *message* on one line."""
        line = " ".join(message.removeprefix("argument ").split())
        raise UsageError(line + self._see_help)

    @property
    def _see_help(self) -> str:
        return f" (see {self.prog} --help)"

    def _problems(self, args: Sequence[str], usable: dict[str, Any]) -> Iterator[str]:
        """Yield what is wrong with each flag of *args*, each flag by itself, and add the values of the others to
        *usable*.
        """
        at = 0
        while at < len(args):
            # A word without dashes is the value of the flag before it.
            end = at + 1
            while end < len(args) and not args[end].startswith("-"):
                end += 1
            try:
                values = vars(super().parse_args(list(self._spelled_out(args[at:end])), None))
                usable |= {name: value for name, value in values.items() if value is not None}
            except UsageError as error:
                yield str(error).removesuffix(self._see_help)
            at = end

    def _spelled_out(self, args: Iterable[str]) -> Iterator[str]:
        """Yield each flag of *args* as --name=value, the only form that argparse cannot misread."""
        left = list(args)[::-1]
        while left:
            word = left.pop()
            if not word.startswith("-") or word in ("-", "--"):
                # "--" ends the flags in Go, too. Behind it are positional arguments only, and there are none.
                if word == "--" and not left:
                    return
                self.error(f"unexpected argument {quoted(word)}: every argument must be a flag that begins with --")
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
        """Return the flag *name*, without dashes. Raises UsageError with the most similar flag."""
        actions = {text.lstrip("-"): action for action in self._actions for text in action.option_strings}
        if name not in actions:
            import difflib  # noqa: PLC0415  150 kB, for a message only

            folded = {text.lower(): text for text in actions if text not in self._former}
            close = difflib.get_close_matches(name.lower(), folded, n=1)
            advice = f"; did you mean --{folded[close[0]]}?" if close else ""
            self.error(f"unknown flag --{quoted(name)[1:-1]}{advice}")
        return actions[name]
