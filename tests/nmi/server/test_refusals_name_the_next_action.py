"""Every refusal in the code contains the next action for the operator, in one line that fits the log."""

import importlib
import pkgutil
import re

import pytest

import nmi
from nmi.refusal import Limit, Refusal
from nmi.server.body import body_too_large
from nmi.server.head import bad, too_large
from nmi.server.parameters import parse_query, token_request

POINTERS = re.compile(
    r"\b(see|check|compare|find|label|ask|put|move|give|report|change|create|assign|raise|set|nothing to do|look|"
    r"upgrade|keep|allows|grant|use|make|correct|send|delete)\b|--[a-z]|\bMIC's log\b",
    re.IGNORECASE,
)


def constants() -> list[tuple[str, Refusal]]:
    """Return every Refusal in a module of NMI."""
    found = []
    for module in pkgutil.walk_packages(nmi.__path__, "nmi."):
        if module.name.endswith("__main__"):
            continue
        values = vars(importlib.import_module(module.name))
        found += [(f"{module.name}.{name}", each) for name, each in values.items() if isinstance(each, Refusal)]
    return sorted(found, key=lambda pair: pair[0])


MADE: list[tuple[str, Refusal | object]] = [
    ("bad", bad("a defect")),
    ("too_large", too_large("Too large.", Limit.HEAD_BYTES)),
    ("body_too_large", body_too_large()),
    ("query", parse_query("a;b")),
    ("parameters", parse_query("&".join(f"p{n}=1" for n in range(99)))),
    ("resource", token_request("")),
]


@pytest.mark.parametrize(
    ("name", "refusal"), [*constants(), *MADE], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_refusal_names_what_to_check(name: str, refusal: object) -> None:
    assert isinstance(refusal, Refusal), name
    detail = refusal.detail

    assert POINTERS.search(detail), f"{name}: {detail!r} does not say what to do"
    assert detail.isprintable()
    assert len(detail) <= 256, "the log would cut it"
    assert refusal.sentence.isprintable()
    assert "unreachable" not in refusal.sentence.lower()


def test_each_package_has_refusals() -> None:
    rooms = {name.split(".")[1] for name, _ in constants()}

    assert {"identity", "issuer", "server"} <= rooms
