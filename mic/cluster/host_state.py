"""VMs and scale sets as the cluster sees them: whose nodes, which claims are open, what is leaving. No I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mic.decisions.assignments import ClaimKey, Debt, Held, Key, Want
from mic.decisions.identity_usage import Stake
from podidentity.azure.resource_ids import Host


@dataclass(slots=True)
class Claim:
    """One pod's need of one identity: what is wanted, if anything, and the living objects that stand for it."""

    want: Want | None = None
    living: dict[Key, Held] = field(default_factory=dict)
    open_at: tuple[str, ...] = ()
    """The places that have to do something about it."""


class Lookup(Protocol):
    """What a place asks of the rest of the cluster."""

    def claim(self, key: ClaimKey) -> Claim | None:
        """The claim by its key."""

    def held(self, key: Key) -> Held | None:
        """The object by its namespace and name."""

    def place(self, key: str) -> "Place":
        """The place by its key."""

    def place_of(self, held: Held) -> str:
        """The key of the place of the node that the object names."""


@dataclass(slots=True)
class Place:
    """One VM or scale set, or one node without either. Implements `stakes.Picture`; owned and changed by the View."""

    key: str
    cluster: Lookup
    host: Host | None = None
    nodes: set[str] = field(default_factory=set)
    stakes: dict[str, Stake] = field(default_factory=dict)
    dying: dict[Key, Held] = field(default_factory=dict)
    open: dict[ClaimKey, None] = field(default_factory=dict)
    debts: int = 0

    @property
    def has_work(self) -> bool:
        """Whether anything here differs from what it should be, as far as the cluster can tell."""
        return bool(self.open or self.dying or self.debts)

    @property
    def empty(self) -> bool:
        return not (self.nodes or self.stakes or self.has_work)

    def open_claims(self) -> Iterator[tuple[Want | None, tuple[Held, ...]]]:
        for key in self.open:
            claim = self.cluster.claim(key)
            if claim is None:
                continue
            if claim.want is not None:
                yield claim.want, tuple(claim.living.values())
            else:
                yield None, tuple(held for held in claim.living.values() if self.cluster.place_of(held) == self.key)

    def taken(self, key: Key, want: Want) -> bool:
        held = self.cluster.held(key)
        return held is not None and (held.dying or held.claim != want.claim)

    def holds(self, held: Held) -> bool:
        return self.cluster.place_of(held) == self.key

    def debts_of(self, held: Held) -> tuple[Debt, ...]:
        host = self.cluster.place(self.cluster.place_of(held)).host
        return (Debt(host.text, held.identity_id.text),) if host is not None and held.identity_id is not None else ()
