"""Fixtures of `tests.support.nmi.handover.fixtures` for the tests of this folder."""

from tests.support.nmi.handover.fixtures import no_threads

__all__ = ["no_threads"]
