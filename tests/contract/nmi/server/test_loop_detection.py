"""NMI's own requests that a redirect returns to NMI: refused at the first hop, and harmless if a pod imitates them."""

import pytest

from nmi.refusal import Reason
from nmi.server.loop_detection import CAME_BACK, FIELD, SENT_FIELDS
from nmi.server.passthrough import MetadataProxy
from nmi.server.policy import ServerPolicy
from podidentity.http_client.session import HttpSession
from tests.support.nmi.server.fakes import TARGET, ServerUnderTest, request_bytes
from tests.support.nmi.server.running import Client, Running, serving

INSTANCE = "/metadata/instance?api-version=2021-02-01"


@pytest.mark.parametrize("target", [TARGET, INSTANCE, "/metadata/versions", "/host/token/?resource=r", "/x"])
@pytest.mark.parametrize("value", ["nmi", "", "other"])
async def test_a_request_with_the_mark_is_refused_on_every_path(
    server: ServerUnderTest, target: str, value: str
) -> None:
    reply = await server.ask(request_bytes(target, headers=("Metadata: true", f"{FIELD}: {value}")))
    assert (reply.status, reply.json["error"]) == (508, "loop_detected")
    assert reply.headers["connection"] == "close"
    assert (server.token_service.requests, server.proxy.forwarded) == ([], [])
    assert server.measures.refusals(Reason.LOOPED) == 1


@pytest.mark.parametrize("target", [TARGET, INSTANCE])
async def test_a_request_without_it_is_served(server: ServerUnderTest, target: str) -> None:
    headers = ("Metadata: true", "x-aad-pod-identity: nmi", f"user-agent: {FIELD}")
    assert (await server.ask(request_bytes(target, headers=headers))).status == 200


@pytest.mark.parametrize("value", ["nmi", "pod", ""], ids=["as-nmi", "another", "empty"])
async def test_a_pod_that_imitates_the_mark_changes_no_later_answer(
    running: Running, client: Client, value: str
) -> None:
    marked = ("Metadata: true", f"{FIELD}: {value}")
    for target in (TARGET, INSTANCE):
        for _ in range(3):
            async with running.client() as imitator:
                assert (await imitator.ask(request_bytes(target, headers=marked))).status == 508
        assert (await client.ask(request_bytes(target))).status == 200
    assert running.fast == 0


async def test_a_request_that_comes_back_makes_one_hop_and_names_the_cause() -> None:
    async with HttpSession(connections=64, headers=SENT_FIELDS) as session:
        proxy = MetadataProxy(session, "", ServerPolicy())
        async with serving(proxy=proxy) as running, running.client() as client:
            proxy._base_url = "http://{}:{}".format(*running.address)  # a redirect returns its requests
            reply = await client.ask(request_bytes(INSTANCE))
            assert running.count("accepted") == 2, "the client, and NMI once"
        proxy.close()
    assert (reply.status, reply.json["error"]) == (503, "temporarily_unavailable")
    assert "came back to NMI" in reply.json["error_description"]
    assert "skipRedirectFromBackend: true" in CAME_BACK, "the operator reads the next action"
