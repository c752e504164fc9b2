"""Fixtures of `tests.support.podidctl.fixtures` for the tests of this folder."""

from tests.support.podidctl.fixtures import cloud

__all__ = ["cloud"]
