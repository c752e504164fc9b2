"""Fixtures of `tests.support.nmi.issuer_bench` for the tests of this folder."""

from tests.support.nmi.issuer_bench import bench, issuer

__all__ = ["bench", "issuer"]
