"""Fixtures of `tests.support.podidentity.kube.fixtures` for the tests of this folder."""

from tests.support.podidentity.kube.fixtures import client, open_session, recorder, server

__all__ = ["client", "open_session", "recorder", "server"]
