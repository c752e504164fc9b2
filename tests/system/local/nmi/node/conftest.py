"""Fixtures of `tests.support.nmi.node.fixtures` for the tests of this folder."""

from tests.support.nmi.node.fixtures import backend, chosen, machine, node, site, worker

__all__ = ["backend", "chosen", "machine", "node", "site", "worker"]
