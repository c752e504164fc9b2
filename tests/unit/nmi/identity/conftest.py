"""Fixtures of `tests.support.nmi.identity.fixtures` for the tests of this folder."""

from tests.support.nmi.identity.fixtures import cluster, managed, unwatched

__all__ = ["cluster", "managed", "unwatched"]
