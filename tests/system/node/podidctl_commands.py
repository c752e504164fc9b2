"""podidctl on a test bed, as the administrator of the cluster, with JSON output."""

import sys
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from podidctl.verify.schema import Verification
from tests.system.node.bed import NAMESPACE, Bed

T = TypeVar("T")
SOMETHING_TO_DO: Final = 3


@dataclass(frozen=True, slots=True)
class Output:
    """Exit code and document of a command."""

    code: int
    text: str

    def read(self, kind: type[T]) -> T:
        return msgspec.json.decode(self.text, type=kind)


def podidctl(bed: Bed, *words: str) -> Output:
    """Run the command. Raise AssertionError if it prints no document."""
    done = bed.commands.done(sys.executable, "-m", "podidctl", *words, "--output=json")
    assert done.stdout, done.stderr
    return Output(done.returncode, done.stdout)


def verified(bed: Bed) -> tuple[int, dict[str, str]]:
    """Return the exit code of `podidctl verify`, and who answers the pods of each node."""
    output = podidctl(bed, "verify", f"--namespace={NAMESPACE}")
    return output.code, {each.node: each.answered_by.value for each in output.read(Verification).nodes}
