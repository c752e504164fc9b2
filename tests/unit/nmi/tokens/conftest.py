"""Fixtures of `tests.support.nmi.tokens.fixtures` for the tests of this folder."""

from tests.support.nmi.tokens.fixtures import bench, bound, everything_logged, fake, node

__all__ = ["bench", "bound", "everything_logged", "fake", "node"]
