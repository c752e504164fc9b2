"""Fixtures of `tests.support.nmi.node.fixtures` for the tests of this folder."""

from tests.support.nmi.node.fixtures import backend, node

__all__ = ["backend", "node"]
