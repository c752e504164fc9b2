"""Requests of NMI to IMDS that come back to NMI: the refusal names the cause, and the check of Cilium's redirect gets
the end of each request, which shows a lost exemption.

Excluded: what the check does with it (`node/test_cilium_redirect.py`).
"""

import asyncio
import time
from contextlib import AsyncExitStack
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from nmi.assembly import TokenServerAssembly
from nmi.choices import RedirectMode
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.request import TokenRequest
from nmi.node import cilium_redirect
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.refusal import Reason
from nmi.settings import NmiSettings
from podidentity.azure.errors import CameBack
from podidentity.kube.client import Client
from tests.support.nmi.imds import Reply, running_imds
from tests.support.nmi.token_service_bench import running_token_service
from tests.support.nmi_objects import REQUEST, RESOURCE, identity


async def test_a_token_request_that_comes_back_starts_the_repair_of_ciliums_redirect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cilium_redirect, "CAME_BACK_SECONDS", 0.0)
    async with running_imds(loopback=True) as imds, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        imds.wall = time.time
        address = urlsplit(imds.url)
        settings = NmiSettings(
            node_name="n",
            metadata_ip=str(address.hostname),
            metadata_port=address.port or 0,
            redirect=RedirectMode.CILIUM,
            token_cache=False,
        )
        redirect = TrafficRedirect(settings, "10.244.0.9")
        await redirect.prepare()
        tokens = await TokenServerAssembly(settings, stack, CollectorRegistry(), tasks).build_tokens(
            Mock(spec=Client), IdentityMetrics(CollectorRegistry()), note_imds=redirect.note_imds
        )
        await tokens.broker.token(identity(), REQUEST, "ns/web")
        assert redirect.problem() is None
        imds.script = [Reply(508)]
        with pytest.raises(CameBack):
            await tokens.broker.token(identity(), REQUEST, "ns/web")
        assert "lost NMI's exemption" in str(redirect.problem())


@pytest.mark.parametrize(("status", "came_back"), [(508, True), (507, False)])
async def test_a_request_to_imds_that_came_back_to_nmi_is_named_in_the_log(status: int, came_back: bool) -> None:
    async with running_token_service(retry_delays=(0.1,)) as bench:
        await bench.with_pod()
        bench.imds.script = [Reply(status, b"{}")] * 6
        refusal = await bench.refused()
        assert refusal.reason is Reason.UPSTREAM_UNAVAILABLE
        assert ("was redirected to NMI" in refusal.detail) is came_back
        assert ("check that IMDS" in refusal.detail) is not came_back
        assert (len(bench.imds.calls) == 1) is came_back


async def test_requests_that_came_back_do_not_stop_the_calls_to_imds() -> None:
    async with running_token_service(retry_delays=()) as bench:
        await bench.with_pod()
        bench.imds.script = [Reply(508, b"{}")] * 8
        refusals = [await bench.refused(TokenRequest(f"{RESOURCE}/{number}")) for number in range(8)]
        assert all("was redirected to NMI" in refusal.detail for refusal in refusals)
        assert (await bench.issued()).token.access_token
