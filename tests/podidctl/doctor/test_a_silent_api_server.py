"""An API server that accepts connections and never answers."""

import asyncio

import pytest

from podidctl.doctor import gather
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import NoResponse


async def test_the_error_states_the_server_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "VERSION_SECONDS", 0.05)
    connections: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    try:
        async with Client(ClusterAccess(url), user_agent="test") as client:
            with pytest.raises(NoResponse, match=rf"no response from {url} within 0\.05 s"):
                await gather._server(client)
    finally:
        for each in connections:
            each.close()
        silent.close()
