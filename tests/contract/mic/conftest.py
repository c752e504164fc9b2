"""Fixtures of `tests.support.mic.fixtures` for the tests of this folder."""

from tests.support.mic.fixtures import azure

__all__ = ["azure"]
