"""A client that reports a rejected token (token_sha256_to_refresh): NMI fetches again only if it holds that token."""

import asyncio
from hashlib import sha256

from nmi.identity.request import TokenRequest
from nmi.issuer import Issued
from tests.nmi.issuer_bench import running_issuer
from tests.support.nmi_objects import REQUEST, RESOURCE


def rejecting(token: str) -> TokenRequest:
    return TokenRequest(RESOURCE, rejected_sha256=sha256(token.encode()).hexdigest())


async def test_the_held_token_is_replaced_and_the_report_is_then_out_of_date() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        held = (await bench.issued(REQUEST)).token.access_token
        renewed = (await bench.issued(rejecting(held))).token.access_token
        assert renewed != held
        assert (await bench.issued(rejecting(held))).token.access_token == renewed
        assert (await bench.issued(REQUEST)).token.access_token == renewed
        assert len(bench.imds.calls) == 2


async def test_another_hash_causes_no_fetch() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        held = await bench.issued(REQUEST)
        for rejected in ("ab", "0" * 64, sha256(b"older").hexdigest()):
            answer = await bench.issued(TokenRequest(RESOURCE, rejected_sha256=rejected))
            assert answer.token == held.token
        assert len(bench.imds.calls) == 1


async def test_concurrent_reports_share_one_fetch() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        held = (await bench.issued(REQUEST)).token.access_token
        answers = await asyncio.gather(*(bench.issue(rejecting(held)) for _ in range(20)))
        assert all(isinstance(each, Issued) and each.token.access_token != held for each in answers)
        assert len(bench.imds.calls) == 2


async def test_without_a_held_token_the_first_fetch_is_an_ordinary_one() -> None:
    async with running_issuer() as bench:
        await bench.with_pod()
        assert isinstance(await bench.issue(rejecting("of another node")), Issued)
        assert len(bench.imds.calls) == 1
