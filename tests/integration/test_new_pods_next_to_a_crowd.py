"""New pods of the real NMI whose requests come before their addresses are reported, next to 80 requests of an unknown
address: each new pod gets its token.
"""

import asyncio
import http.client
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from podidentity_sandbox.azure import identity_id
from podidentity_sandbox.kubelet import Kubelet
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import AUDIENCE, NODE, TOKEN, binding, identity, metrics
from tests.support.waiting import until

CROWD = "127.250.0.9"
REQUESTS = 80
PODS = [f"web-{number}" for number in range(6)]
REPORT_SECONDS = 0.8
"""How long after its request is sent a pod's address is reported."""
PAUSE_SECONDS = 0.2
"""Between a refusal and the next request of the crowd."""


async def request_forever(host: str, port: int) -> None:
    head = f"GET {TOKEN}?resource={AUDIENCE} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(host, port, local_addr=(CROWD, 0))
    try:
        while True:
            writer.write(head)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in answer.split(b"\r\n") if line.startswith(b"Content-Length: "))
            await reader.readexactly(int(length.split()[1]))
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        writer.close()


@asynccontextmanager
async def crowd(sandbox: Sandbox) -> AsyncIterator[None]:
    """Let an unknown address send requests in this context."""
    host, _, port = sandbox.metadata_url(NODE).removeprefix("http://").partition(":")
    tasks = [asyncio.create_task(request_forever(host, int(port))) for _ in range(REQUESTS)]

    async def waiting() -> bool:
        page = await asyncio.to_thread(metrics, sandbox.nmis[NODE].metrics_port)
        return any(
            float(line.split()[1]) > REQUESTS / 2
            for line in page.splitlines()
            if line.startswith("aadpodidentity_nmi_parked ")
        )

    try:
        await until(waiting)
        yield
        assert not any(task.done() for task in tasks), "the crowd is still there"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_six_new_pods_get_their_tokens_next_to_80_requests_of_an_unknown_address() -> None:
    publish, answers = Kubelet._publish, []
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:
        known = sandbox.azure.directory.add_identity(identity_id("web"))
        await sandbox.cluster.apply(identity("web", type=0, resourceID=known.resource_id, clientID=known.client_id))
        await sandbox.cluster.apply(binding("web", "web"))

        async def publish_late(kubelet: Kubelet, managed: Any, phase: str) -> None:
            connection = await asyncio.to_thread(ask, sandbox, managed.context.address)
            answers.append(asyncio.create_task(asyncio.to_thread(status_of_answer, connection)))
            await asyncio.sleep(REPORT_SECONDS)
            await publish(kubelet, managed, phase)

        with patch.object(Kubelet, "_publish", publish_late):
            async with crowd(sandbox):
                for name in PODS:
                    await sandbox.cluster.apply(pod(name))

                async def asked() -> bool:
                    return len(answers) == len(PODS)

                await until(asked)
                assert await asyncio.gather(*answers) == [200] * len(PODS)


def ask(sandbox: Sandbox, address: str) -> http.client.HTTPConnection:
    """Send a token request from *address*."""
    host = sandbox.metadata_url(NODE).removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60, source_address=(address, 0))
    connection.request("GET", f"{TOKEN}?resource={AUDIENCE}", headers={"Metadata": "true"})
    return connection


def status_of_answer(connection: http.client.HTTPConnection) -> int:
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def pod(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"aadpodidbinding": "web"}},
        "spec": {"containers": [{"name": "main", "image": "pause"}], "nodeName": NODE},
    }
