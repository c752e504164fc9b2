"""Fixtures of `tests.support.nmi.tokens.fixtures` for the tests of this folder."""

from tests.support.nmi.tokens.fixtures import bound

__all__ = ["bound"]
