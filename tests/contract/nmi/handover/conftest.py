"""Fixtures of `tests.support.nmi.handover.fixtures` for the tests of this folder."""

from tests.support.nmi.handover.fixtures import no_threads, path, pytest_asyncio_loop_factories

__all__ = ["no_threads", "path", "pytest_asyncio_loop_factories"]
