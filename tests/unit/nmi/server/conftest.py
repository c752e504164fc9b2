"""Fixtures of `tests.support.nmi.server.running` for the tests of this folder."""

from tests.support.nmi.server.running import server

__all__ = ["server"]
