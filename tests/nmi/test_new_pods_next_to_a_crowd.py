"""New pods whose requests come before NMI knows them get their tokens, next to many requests of an unknown address."""

import asyncio

import pytest

from nmi.identity.lookup_wait import WAITERS_MAX
from nmi.issuer import Issued
from nmi.refusal import Limit, Reason, Refusal
from nmi.server.responses import refused
from tests.nmi.identity.shapes import assigned_identity, binding, identity, pod
from tests.nmi.issuer_bench import issuer_without_reads
from tests.virtual_time import settle

CROWD = "10.0.9.9"
PODS = 6


@pytest.mark.parametrize("managed", [False, True], ids=["standard", "managed"])
async def test_six_new_pods_get_their_tokens_next_to_an_unknown_address(managed: bool) -> None:
    async with issuer_without_reads(managed=managed) as issuer:
        if managed:
            issuer.cluster.deliver(identity(), "identities")
            issuer.cluster.deliver(binding(), "bindings")
        crowd = [asyncio.create_task(issuer.issue(peer=CROWD)) for _ in range(WAITERS_MAX)]
        await settle()
        new = [asyncio.create_task(issuer.issue(peer=f"10.0.1.{number}")) for number in range(PODS)]
        await asyncio.sleep(0.8)
        for number in range(PODS):
            name = f"web-{number}"
            issuer.cluster.deliver(pod(name, uid=f"uid-{number}", addresses=(f"10.0.1.{number}",)))
            if not managed:
                issuer.cluster.deliver(assigned_identity(pod_name=name), "assigned_identities")
        tokens = await asyncio.gather(*new)
        assert [each.pod for each in tokens if isinstance(each, Issued)] == [f"ns/web-{n}" for n in range(PODS)]
        ended = [each for each in await asyncio.gather(*crowd) if isinstance(each, Refusal)]
        reasons = [each.reason for each in ended]
        assert reasons.count(Reason.UNKNOWN_ADDRESS) == WAITERS_MAX - PODS
        assert reasons.count(Reason.OVERLOADED) == PODS


async def test_a_request_that_must_not_wait_learns_when_to_try_again() -> None:
    async with issuer_without_reads() as issuer:
        crowd = [asyncio.create_task(issuer.issue(peer=CROWD)) for _ in range(WAITERS_MAX)]
        await settle()
        refusal, seconds = await issuer.refused_after(peer=CROWD)
        assert seconds == 0.0
        assert refusal.limit is Limit.PARKED
        answer = refused(refusal)
        assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "1")
        await asyncio.gather(*crowd)
        late, _ = await issuer.refused_after(peer="10.0.9.8")
        assert refused(late).status == 404, "no pod has arrived"
