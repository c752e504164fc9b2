"""Fixtures of `tests.support.nmi.server.running` for the tests of this folder."""

from tests.support.nmi.server.running import client, running, server

__all__ = ["client", "running", "server"]
