"""Fixtures of `tests.support.nmi.identity.fixtures` for the tests of this folder."""

from tests.support.nmi.identity.fixtures import cluster

__all__ = ["cluster"]
