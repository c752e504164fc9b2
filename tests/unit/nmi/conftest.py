"""Fixtures of `tests.support.nmi.token_service_bench` for the tests of this folder."""

from tests.support.nmi.token_service_bench import bench, service

__all__ = ["bench", "service"]
