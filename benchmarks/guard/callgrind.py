"""Callgrind's dumps, read: how many instructions each function spent itself, and with all that it called."""

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
    """A function in an object file; the file by its name alone, without what differs between machines."""

    name: str
    object: str


@dataclass(slots=True)
class Dump:
    """What was counted up to one request for a dump. Numbers are instructions in user space."""

    name: str = ""
    """What the program called it; empty if callgrind made it by itself, at the end."""
    own: Counter[Function] = field(default_factory=Counter)
    """Without what was called."""
    calls: Counter[Function] = field(default_factory=Counter)
    """How often each was called."""
    with_callees: Counter[Function] = field(default_factory=Counter)
    """What was spent in calls of each, as its callers saw it; a recursive function counts more than once."""

    def total(self) -> int:
        return self.own.total()


def read(lines: Iterable[str]) -> Dump:
    """One dump, written with --dump-line=no, --compress-strings=no and --compress-pos=no."""
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
    """`…/lane.cpython-311-x86_64-linux-gnu.so` is `lane`, `…/libc.so.6` is `libc`."""
    return Path(path).name.partition(".")[0]


def function_name(symbol: str) -> str:
    """`__pyx_f_7_native_4scan_scan_head` is `scan_head`, of a class `Lane.accept_some`; what is not Cython's stays.

    Before the function come its package, module and class, each after its length. The wrapper by which Python calls a
    function is another function.
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
    """All named dumps of a run with --callgrind-out-file=*prefix*, in the order they were made."""
    numbered = sorted((int(each.suffix[1:]), each) for each in prefix.parent.glob(f"{prefix.name}.[0-9]*"))
    found = []
    for _, each in numbered:
        with each.open() as lines:
            found.append(read(lines))
    return [each for each in found if each.name]
