"""Running issuers, for tests in virtual time."""

from collections.abc import AsyncIterator

import pytest

from tests.support.nmi.issuer_bench import IssuerBench, issuer_without_reads, running_issuer


@pytest.fixture
async def bench() -> AsyncIterator[IssuerBench]:
    """Yield the issuer of a node that follows its cluster."""
    async with running_issuer() as running:
        yield running


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerBench]:
    """Yield an issuer that knows what the test delivers."""
    async with issuer_without_reads() as running:
        yield running
