"""Reader of Callgrind's dumps: the instructions of each function, with and without its callees."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_CYTHON: Final = re.compile(r"__pyx_(f|pf|pw|tp_\w+?)_(?=\d)")
_TRIGGER: Final = "desc: Trigger: Client Request: "


@dataclass(frozen=True, slots=True, order=True)
class Function:
    """A function in an object file. The file is its base name, without parts that differ between machines."""

    name: str
    object: str


@dataclass(slots=True)
class Dump:
    """The counts up to one request for a dump. Numbers are instructions in user space."""

    name: str = ""
    """The name that the program gave; empty for the dump that callgrind writes at the end."""
    own: Counter[Function] = field(default_factory=Counter)
    """Instructions without callees."""
    calls: Counter[Function] = field(default_factory=Counter)
    """The number of calls."""
    with_callees: Counter[Function] = field(default_factory=Counter)
    """Instructions with callees, as counted at the callers. A recursive function is counted more than once."""

    def total(self) -> int:
        return self.own.total()


def read(lines: Iterable[str]) -> Dump:
    """Parse one dump, written with --dump-line=no, --compress-strings=no and --compress-pos=no."""
    dump = Dump()
    here = called = Function("", "")
    in_call = False
    for line in lines:
        key, equals, value = line.rstrip("\n").partition("=")
        if line.startswith(_TRIGGER):
            dump.name = line.removeprefix(_TRIGGER).strip()
        elif line[:1].isdigit():
            cost = int(line.split()[-1])
            if in_call:
                dump.with_callees[called] += cost
                called, in_call = here, False
            else:
                dump.own[here] += cost
        elif not equals:
            continue
        elif key == "ob":
            here = Function(here.name, object_name(value))
        elif key == "fn":
            called = here = Function(function_name(value), here.object)
        elif key == "cob":
            called = Function(called.name, object_name(value))
        elif key == "cfn":
            called = Function(function_name(value), called.object)
        elif key == "calls":
            dump.calls[called] += int(value.split()[0])
            in_call = True
    return dump


def object_name(path: str) -> str:
    """Return the short name: `…/lane.cpython-311-x86_64-linux-gnu.so` is `lane`, `…/libc.so.6` is `libc`."""
    return Path(path).name.partition(".")[0]


def function_name(symbol: str) -> str:
    """Return the short name: `__pyx_f_7_native_4scan_scan_head` is `scan_head`, a method is `Lane.accept_some`.

    Cython writes package, module and class before the function, each after its length. The wrapper that Python calls
    counts as another function. Other names are not changed.
    """
    begin = _CYTHON.match(symbol)
    if begin is None:
        return symbol
    scopes, rest = [], symbol[begin.end() :]
    while (length := re.match(r"\d+", rest)) and len(name := rest[length.end() :]) > int(length[0]):
        scopes.append(name[: int(length[0])])
        rest = name[int(length[0]) :].removeprefix("_")
    kind = begin[1]
    spoken = rest.lstrip("0123456789")  # Python methods are numbered
    if kind.startswith("tp_"):
        spoken += f".{kind}"
    if kind == "pw":
        spoken += " (wrapper)"
    return ".".join([*(scope for scope in scopes if scope.lstrip("_")[:1].isupper()), spoken])


def dumps(prefix: Path) -> list[Dump]:
    """Return all named dumps of a run with --callgrind-out-file=*prefix*, in the order of their creation."""
    numbered = sorted((int(file.suffix[1:]), file) for file in prefix.parent.glob(f"{prefix.name}.[0-9]*"))
    parsed = []
    for _, file in numbered:
        with file.open() as lines:
            parsed.append(read(lines))
    return [dump for dump in parsed if dump.name]
