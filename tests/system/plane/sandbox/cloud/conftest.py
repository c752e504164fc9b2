"""Fixtures of `tests.support.sandbox.cloud.fixtures` for the tests of this folder."""

from tests.support.sandbox.cloud.fixtures import kubectl

__all__ = ["kubectl"]
