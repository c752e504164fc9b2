"""Selection of steps by the names on the command line. Pure."""

from collections.abc import Collection, Sequence
from typing import TypeVar

from podidentity.exits import StartError

T = TypeVar("T")


def select(
    names: Sequence[str], namespace: str, every: Sequence[tuple[str, T]], *, unchanged: Collection[str] | None = None
) -> list[T]:
    """Return the selected items of *every* (AzureIdentity as `namespace/name`, and its item); all if no name is given.
    *unchanged*: the existing identities without an item, if they are known. Raises StartError for a name without an
    item.
    """
    wanted = {name if "/" in name else f"{namespace or 'default'}/{name}" for name in names}
    known = {identity for identity, _ in every}
    if unchanged is not None and (absent := sorted(wanted - known - set(unchanged))):
        raise StartError(f"AzureIdentity {', '.join(absent)} does not exist: see kubectl get azureidentities -A")
    if lost := sorted(wanted - known):
        raise StartError(
            f"there is nothing to do for AzureIdentity {', '.join(lost)}: podidctl migrate plan lists the steps"
        )
    return [
        what
        for identity, what in every
        if (identity in wanted if wanted else namespace in {"", identity.partition("/")[0]})
    ]
