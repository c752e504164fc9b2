"""Fixtures of `tests.support.sandbox.kubeapi.fixtures` for the tests of this folder."""

from tests.support.sandbox.kubeapi.fixtures import api, call

__all__ = ["api", "call"]
