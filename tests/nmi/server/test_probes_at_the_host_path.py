"""HTTP probes of pods at the host path get no token, although the kubelet, a process of the node, sends them."""

import pytest

from nmi.refusal import Reason
from nmi.settings import Settings
from tests.nmi.server.fakes import SECRET, ServerUnderTest, request_bytes

HOST = "127.0.0.1"
NAMED = ("podns: shop", "podname: cart")
CLOSE = "Connection: close"

# What Go's client sends for httpGet with these httpHeaders; keep-alive is off for probes.
PROBES = {
    "as it is": ("User-Agent: kube-probe/1.31", "Accept: */*", CLOSE),
    "with another User-Agent": ("User-Agent: Go-http-client/1.1", CLOSE),
    "without a User-Agent": (CLOSE,),
    "with an empty Connection": ("User-Agent: x", "Connection: ", CLOSE),
    "with a Connection of its own": ("User-Agent: x", "Connection: keep-alive", CLOSE),
    "that asks for an upgrade": ("User-Agent: x", "Connection: Upgrade", "Upgrade: x"),
    "with an Upgrade alone": ("User-Agent: x", "Upgrade: x"),
    "with Host and Metadata": ("User-Agent: x", "Metadata: true", CLOSE),
    "a lifecycle hook": ("User-Agent: kube-lifecycle/1.31",),
    "in other letters": ("User-Agent: KUBE-PROBE/1.31",),
}


@pytest.mark.parametrize("headers", PROBES.values(), ids=PROBES)
async def test_a_probe_of_the_kubelet_is_refused_whatever_headers_the_pod_overrides(headers: tuple[str, ...]) -> None:
    server = ServerUnderTest(peer=HOST)
    reply = await server.ask(request_bytes("/host/token/?resource=r", headers=(*NAMED, *headers)))
    assert reply.status == 403
    assert SECRET.encode() not in reply.body
    assert server.issuer.asked == [], "nothing was looked up"
    assert server.measures.refusals(Reason.NOT_FROM_HOST) == 1


@pytest.mark.parametrize(
    "headers", [(), ("User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"), ("Connection: Keep-Alive",)]
)
async def test_the_documented_clients_of_the_path_are_served(headers: tuple[str, ...]) -> None:
    server = ServerUnderTest(peer=HOST)
    assert (await server.ask(request_bytes("/host/token/?resource=r", headers=(*NAMED, *headers)))).status == 200


def test_the_path_is_off_by_default() -> None:
    assert Settings(node_name="n").host_token_types == frozenset()
