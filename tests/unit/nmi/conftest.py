"""Fixtures of `tests.support.nmi.fixtures` for the tests of this folder."""

from tests.support.nmi.fixtures import bench, issuer

__all__ = ["bench", "issuer"]
