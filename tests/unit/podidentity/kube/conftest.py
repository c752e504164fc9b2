"""Fixtures of `tests.support.podidentity.kube.fixtures` for the tests of this folder."""

from tests.support.podidentity.kube.fixtures import bench, client, open_session, recorder, server

__all__ = ["bench", "client", "open_session", "recorder", "server"]
