"""Limits of what a reconcile pass may change on a host: the operator's settings, and changes that must wait. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from mic.azure.identities import MOST_IN_ONE_UPDATE


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's settings for detaching identities."""

    immutable: frozenset[str] = frozenset()
    """Client ids (or resource ids), lower-case, that MIC never detaches: `--immutable-user-msis` and the cluster's own
    identity."""
    adopt_existing: bool = False
    """Treat identities that were attached before MIC as if MIC had attached them."""


@dataclass(frozen=True, slots=True)
class Restraint:
    """Changes of a host that are due but must wait. Identities are given by their keys."""

    quarantined: Collection[str] = ()
    """Not attached or detached, because Azure has refused this recently."""
    retry_due: Collection[str] = ()
    """Attempted only if no other change is due: Azure has refused them before, and other changes must not fail with
    them."""
    warm: Collection[str] = ()
    """Not detached yet: the grace period since their last use has not passed."""
    most: int = MOST_IN_ONE_UPDATE
    """Maximum of identities in one update: fewer while it is unknown which one Azure refuses."""


UNRESTRAINED: Final = Restraint()
