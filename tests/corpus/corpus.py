"""Requests as files of raw bytes: what must be answered with a token, and what never may be.

`accepted/` holds requests that a pod with a granted identity gets its token for. A name that begins with `general-` is
left to the general lane; all others are fast-lane material. `refused/` holds neighbours of those, a byte or a line
away; the name begins with the status of the answer. All are asked from 127.0.0.1, which makes a difference at
/host/token only. A request that was ever read wrongly becomes a file here.
"""

from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Case:
    """One file."""

    name: str
    data: bytes = field(repr=False)

    @property
    def fast(self) -> bool:
        """Whether the fast lane answers it, once an answer stands ready."""
        return not self.name.startswith("general-") and not self.name[:1].isdigit()

    @property
    def status(self) -> int:
        """The status of its answer."""
        return int(self.name[:3]) if self.name[:3].isdigit() else 200


def _cases(directory: str) -> list[Case]:
    return [Case(path.stem, path.read_bytes()) for path in sorted((_HERE / directory).glob("*.http"))]


ACCEPTED = _cases("accepted")
REFUSED = _cases("refused")
EVERY = ACCEPTED + REFUSED
