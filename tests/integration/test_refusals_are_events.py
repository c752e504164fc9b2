"""Test of the Event that shows an operator why a pod gets no token, with the real programs and a pod's requests."""

import os
from typing import Any

import msgspec

from podidentity.kube.events import EVENTS
from podidentity.kube.paths import object_path
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import Settings
from tests.integration.identity_requests import ask, run_pod
from tests.support.waiting import until


async def test_a_refused_pod_has_an_event_with_the_next_action() -> None:
    async with Sandbox(Settings(namespaces=False, environment=os.environ)) as sandbox:

        async def read_events() -> list[dict[str, Any]]:
            listed = msgspec.json.decode(await sandbox.cluster.client.request("GET", object_path(EVENTS, "default")))
            return [each for each in listed["items"] if each["involvedObject"]["kind"] == "Pod"]

        async def pod_has_event() -> bool:
            return bool(await read_events())

        context = await run_pod(sandbox, "unlabelled", {})
        for _ in range(3):
            refused = await ask(sandbox, context)
            assert (refused.status, refused.body["error_description"]) == (400, "Identity not found")
        await until(pod_has_event)
        (event,) = [each for each in await read_events() if each["source"]["component"] == "aad-pod-identity-nmi"]

    assert (event["involvedObject"]["name"], event["reason"], event["type"], event["count"]) == (
        "unlabelled",
        "IdentityNotAssigned",
        "Warning",
        1,
    )
    assert "label it aadpodidbinding" in event["message"]
