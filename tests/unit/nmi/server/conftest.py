"""Fixtures of `tests.support.nmi.server.fixtures` for the tests of this folder."""

from tests.support.nmi.server.fixtures import server

__all__ = ["server"]
