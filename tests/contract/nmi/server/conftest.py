"""Fixtures of `tests.support.nmi.server.fixtures` for the tests of this folder."""

from tests.support.nmi.server.fixtures import client, running, server

__all__ = ["client", "running", "server"]
