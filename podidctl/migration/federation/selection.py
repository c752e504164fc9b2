"""Which of what there is to do is meant by a command line. Pure."""

from collections.abc import Sequence
from typing import TypeVar

from podidentity.exits import StartError

T = TypeVar("T")


def select(names: Sequence[str], namespace: str, every: Sequence[tuple[str, T]]) -> list[T]:
    """Of *every* (AzureIdentity as `namespace/name`, and what there is to do for it) what is meant: all where nothing
    is named. Raises StartError for a name that there is nothing to do for.
    """
    wanted = {name if "/" in name else f"{namespace or 'default'}/{name}" for name in names}
    known = {identity for identity, _ in every}
    if lost := sorted(wanted - known):
        raise StartError(
            f"there is nothing to do for AzureIdentity {', '.join(lost)}: podidctl migrate plan tells what there is"
        )
    return [
        what
        for identity, what in every
        if (identity in wanted if wanted else namespace in {"", identity.partition("/")[0]})
    ]
