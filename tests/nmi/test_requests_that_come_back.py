"""The check of Cilium's redirect gets the end of each token request to IMDS, which shows a lost exemption.

Excluded: what the check does with it (`node/test_cilium_redirect.py`).
"""

import asyncio
import time
from contextlib import AsyncExitStack
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from _native.index import Index
from nmi.flag_table import RedirectMode
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.metrics import IdentityMetrics
from nmi.node import cilium_redirect
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.server.decisions import Decisions
from nmi.settings import Settings
from nmi.token_server import TokenServerAssembly
from podidentity.azure.errors import CameBack
from podidentity.kube.client import Client
from tests.nmi.fake_imds import Answer, running_imds
from tests.nmi.identity.shapes import REQUEST, identity


async def test_a_token_request_that_comes_back_starts_the_repair_of_ciliums_redirect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cilium_redirect, "CAME_BACK_SECONDS", 0.0)
    async with running_imds(loopback=True) as imds, AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        imds.wall = time.time
        address = urlsplit(imds.url)
        settings = Settings(
            node_name="n",
            metadata_ip=str(address.hostname),
            metadata_port=address.port or 0,
            redirect=RedirectMode.CILIUM,
            token_cache=False,
        )
        redirect = TrafficRedirect(settings, "10.244.0.9")
        await redirect.prepare()
        built = await TokenServerAssembly(settings, stack, CollectorRegistry(), tasks).build(
            Mock(spec=Client),
            Index(),
            Mock(spec=ClusterCache),
            IdentityMetrics(CollectorRegistry()),
            Decisions(),
            note_imds=redirect.note_imds,
        )
        await built.broker.token(identity(), REQUEST, "ns/web")
        assert redirect.problem() is None
        imds.script = [Answer(508)]
        with pytest.raises(CameBack):
            await built.broker.token(identity(), REQUEST, "ns/web")
        assert "lost NMI's exemption" in str(redirect.problem())
