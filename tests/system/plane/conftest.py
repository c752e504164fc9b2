"""Fixtures of tests/support for the tests of this folder."""

from tests.support.mic.fixtures import cloud
from tests.support.sandbox.cloud.fixtures import kubectl
from tests.support.sandbox.kubeapi.fixtures import api, call

__all__ = ["api", "call", "cloud", "kubectl"]
