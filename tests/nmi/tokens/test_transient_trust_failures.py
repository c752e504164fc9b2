"""Transient AADSTS700213 of a credential that exists: retried inside the hold, so that no pod's request fails."""

import asyncio
import random

from aiohttp import web

from nmi.tokens.source import FetchedToken
from podidentity.azure.errors import AzureError
from tests.nmi.tokens.test_federated_identities import Trust, trust

__all__ = ["trust"]

EXCHANGES = 1_000
FAILING = 0.02
"""The proportion that users of workload identity have measured."""
CONCURRENT = 16


async def test_two_percent_of_transient_refusals_fail_no_request(trust: Trust) -> None:
    trust.trust_at_azure()
    draw, injected = random.Random(19), 0
    answer = trust.bench.aad.handle

    async def sometimes_unknown(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal injected
        if draw.random() >= FAILING:
            return await answer(request)
        injected += 1
        await request.read()
        sentence = "No matching federated identity record found for presented assertion subject 'x'."
        return trust.bench.aad.refusal(401, "invalid_client", 700213, sentence)

    trust.bench.aad.handle = sometimes_unknown  # type: ignore[method-assign]
    failed: list[AzureError] = []
    left = EXCHANGES

    async def requests() -> None:
        nonlocal left
        while left:
            left -= 1
            try:
                assert isinstance(await trust.fetch(), FetchedToken)
            except AzureError as error:
                failed.append(error)

    await asyncio.gather(*(requests() for _ in range(CONCURRENT)))
    assert injected > EXCHANGES * FAILING / 2
    assert len(trust.failures) == injected, "each was retried"
    assert not failed
