"""`podidctl verify` on a test bed, as the administrator of the cluster."""

import sys
from dataclasses import dataclass
from typing import Final

import msgspec

from tests.realnode.bed import NAMESPACE, Bed

SOMETHING_TO_DO: Final = 3


class _Verdict(msgspec.Struct, rename="camel"):
    """The used part of the document for one node."""

    node: str
    answered_by: str


class _Document(msgspec.Struct):
    nodes: list[_Verdict]


@dataclass(frozen=True, slots=True)
class Verified:
    """The exit code, and the sender of the answers for each node."""

    code: int
    answered_by: dict[str, str]
    text: str
    """The printed document, for the message of a failed test."""


def verify(bed: Bed) -> Verified:
    """Return the result of `podidctl verify`. Raise AssertionError if it prints no document."""
    words = ("verify", f"--namespace={NAMESPACE}", "--output=json")
    done = bed.commands.done(sys.executable, "-m", "podidctl", *words)
    assert done.stdout, done.stderr
    return Verified(done.returncode, answers(done.stdout), done.stdout)


def answers(document: str) -> dict[str, str]:
    """Return the sender of the answers for each node in the printed document."""
    return {each.node: each.answered_by for each in msgspec.json.decode(document, type=_Document).nodes}
