"""A bench for service principals, running."""

from collections.abc import AsyncIterator

import pytest

from tests.nmi.tokens.signing_in import Bench, running


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with running(Bench()) as started:
        yield started
