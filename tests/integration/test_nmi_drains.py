"""Tests that NMI, after SIGTERM, serves new requests until the open ones are answered, and refuses connections then.

Without the redirect a request reaches the real IMDS, so NMI removes it only when the open requests are answered.
"""

import asyncio
import http.client
import os
import signal
from typing import Any

import pytest

from podidentity.resources import PODS
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import NODE, ask, request_held, run_pod
from tests.support.waiting import until

PATH = "/metadata/identity/oauth2/token?resource=https%3A%2F%2Fmanagement.azure.com%2F"
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "waiting", "namespace": "default", "labels": {"aadpodidbinding": "nothing-yet"}},
    "spec": {"containers": [{"name": "main", "image": "pause"}]},
}


async def test_new_requests_are_served_until_the_held_one_is_answered() -> None:
    async with Sandbox(
        Settings(namespaces=False, environment=os.environ, nmi_flags=["--max-hold=30s", "--drain-timeout=5s"])
    ) as sandbox:
        await sandbox.cluster.apply(POD)
        pod = await until(
            lambda: sandbox.cluster.client.get(PODS, "default", "waiting"), holds=lambda found: found.status.pod_ip
        )
        address = pod.status.pod_ip
        nmi = sandbox.nmis["node-0"]
        host, _, port = nmi.url.removeprefix("http://").partition(":")

        def connect() -> http.client.HTTPConnection:
            connection = http.client.HTTPConnection(host, int(port), timeout=20, source_address=(address, 0))
            connection.connect()
            return connection

        def probe() -> int:
            connection = connect()
            connection.request("GET", PATH)
            try:
                return connection.getresponse().status
            finally:
                connection.close()

        connection = await asyncio.to_thread(connect)
        connection.request("GET", PATH, headers={"Metadata": "true"})
        await request_held(sandbox)
        nmi.program.signal(signal.SIGTERM)
        for _ in range(20):
            assert await asyncio.to_thread(probe) == 400, "an SDK's probe, answered as usual"
        answer = await asyncio.to_thread(connection.getresponse)
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        await asyncio.to_thread(answer.read)
        connection.close()
        async with asyncio.timeout(20):
            assert await nmi.program.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(connect)


@pytest.mark.root
async def test_a_held_redirected_request_is_answered_although_the_jump_is_removed() -> None:
    async with Sandbox(
        Settings(namespaces=True, environment=os.environ, nmi_flags=["--max-hold=30s", "--drain-timeout=1s"])
    ) as sandbox:
        context = await run_pod(sandbox, "waiting", {"aadpodidbinding": "nothing-yet"})
        nmi = sandbox.nmis[NODE]
        request = asyncio.create_task(ask(sandbox, context))
        await request_held(sandbox)
        nmi.program.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            answer = await request
            assert await nmi.program.wait() == 0
        assert answer.status == 503
        assert answer.headers["Retry-After"]
