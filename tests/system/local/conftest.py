"""Fixtures of `tests.support.mic.fixtures` for the tests of these folders."""

from tests.support.mic.fixtures import cloud

__all__ = ["cloud"]
