"""Fixtures of `tests.support.nmi.identity.cluster` for the tests of this folder."""

from tests.support.nmi.identity.cluster import cluster, managed, unwatched

__all__ = ["cluster", "managed", "unwatched"]
