"""/host/token: the allowed callers, the name of the pod, the form of the answer. Excluded: the selected identity."""

import json

import pytest

from _native.index import PodRecord
from nmi.identity.request import SelectorKind
from nmi.refusal import Reason
from nmi.server.policy import ServerPolicy
from nmi.settings import Settings
from podidentity.azure.imds import RawAnswer
from tests.support.nmi.server.fakes import (
    PEER,
    RESOURCE,
    SECRET,
    Reply,
    ServerUnderTest,
    grant,
    refusing,
    request_bytes,
    token,
)

HOST = "127.0.0.1"
NAMED = ("podns: shop", "podname: cart")


def ask(target: str = "/host/token/?resource=r", *headers: str, method: str = "GET") -> bytes:
    return request_bytes(target, method=method, headers=headers or NAMED)


@pytest.fixture
def server() -> ServerUnderTest:
    """A server that a process of the node asks."""
    return ServerUnderTest(peer=HOST)


def refused(server: ServerUnderTest, reply: Reply, status: int, word: str) -> None:
    assert reply.status == status
    assert word in reply.json["error_description"]
    assert SECRET.encode() not in reply.body
    assert server.issuer.asked == [], "nothing was looked up"


@pytest.mark.parametrize("path", ["/host/token/", "/host/token"])
async def test_a_node_process_gets_the_token_of_the_pod_that_it_names(server: ServerUnderTest, path: str) -> None:
    reply = await server.ask(ask(f"{path}?resource=r"))
    body = json.loads(reply.body)
    assert reply.status == 200
    assert list(body) == ["token", "clientid"]
    assert body["clientid"] == token().client_id
    on_the_token_path = (await ServerUnderTest().ask(request_bytes())).json
    for inner in (body["token"], on_the_token_path):
        assert 3590 <= int(inner.pop("expires_in")) <= 3600
        del inner["ext_expires_in"]
    assert body["token"] == on_the_token_path
    assert server.issuer.asked[0][0] == "shop/cart"


@pytest.mark.parametrize(
    ("name", "kind"), [("client_id", SelectorKind.CLIENT_ID), ("msi_res_id", SelectorKind.RESOURCE_ID)]
)
async def test_one_of_several_identities_may_be_selected(
    server: ServerUnderTest, name: str, kind: SelectorKind
) -> None:
    assert (await server.ask(ask(f"/host/token/?resource=r&{name}=x"))).status == 200
    ((_, asked),) = server.issuer.asked
    assert (asked.resource, asked.selector, asked.selector_value) == ("r", kind, "x")


@pytest.mark.parametrize("peer", [PEER, "127.0.0.2", "127.0.0.53", "0.0.0.0", "10.0.0.1"])
async def test_another_address_never_gets_a_token_whatever_it_sends(peer: str) -> None:
    for data in (ask(), ask("/host/token"), ask(method="POST"), ask("/host/token/?resource=r", "Metadata: true")):
        server = ServerUnderTest(peer=peer)
        refused(server, await server.ask(data), 403, "processes on the node")
        assert server.measures.refusals(Reason.NOT_FROM_HOST) == 1
        assert server.connection.looked == 0, "the address is sufficient"


@pytest.mark.parametrize("meant", [("169.254.169.254", 80), ("192.0.2.1", 8080)], ids=["usual", "other-settings"])
async def test_a_redirected_connection_never_gets_a_token_even_from_loopback(meant: tuple[str, int]) -> None:
    for policy in (ServerPolicy(), ServerPolicy(redirected_from=meant)):
        server = ServerUnderTest(policy, peer=HOST, meant=meant)
        refused(server, await server.ask(ask()), 403, "processes on the node")


async def test_require_redirected_does_not_affect_this_path() -> None:
    policy = ServerPolicy(redirected_from=("169.254.169.254", 80))
    assert (await ServerUnderTest(policy, peer=HOST).ask(ask())).status == 200


@pytest.mark.parametrize("peer", [HOST, PEER])
async def test_the_path_does_not_exist_if_no_identity_type_is_listed(peer: str) -> None:
    server = ServerUnderTest(ServerPolicy(host_tokens=False), peer=peer)
    refused(server, await server.ask(ask()), 404, "nothing here")


def test_the_path_is_off_by_default() -> None:
    assert Settings(node_name="n").host_token_types == frozenset()


@pytest.mark.parametrize(
    "headers",
    [
        ("Metadata: true",),
        ("podns: shop",),
        ("podname: cart",),
        ("podns: shop", "podns: shop", "podname: cart"),
        ("podns: shop", "podname: cart", "PodName: till"),
        ("podns:", "podname: cart"),
        ("podns: shop", "podname:"),
        ("podns: shop.a", "podname: cart"),
        ("podns: Shop", "podname: cart"),
        ("podns: -shop", "podname: cart"),
        ("podns: shop", "podname: cart/x"),
        ("podns: shop", "podname: cart\tx"),
        ("podns: shop", "podname: ca..rt"),
        ("podns: shop", f"podname: {'a' * 64}"),
        ("podns: shop", f"podname: {'.'.join(['a' * 60] * 5)}"),
        ("podns: sh\xf6p", "podname: cart"),
        (f"podns: {'a' * 64}", "podname: cart"),
    ],
)
async def test_a_pod_must_be_named_once_and_by_valid_names(server: ServerUnderTest, headers: tuple[str, ...]) -> None:
    refused(server, await server.ask(ask("/host/token/?resource=r", *headers)), 400, "podns and podname")


@pytest.mark.parametrize("name", ["cart", "cart-0", "cart.v1-x", "1", "a" * 63, ".".join(["a" * 61] * 4)])
async def test_every_valid_pod_name_is_accepted(server: ServerUnderTest, name: str) -> None:
    assert (await server.ask(ask("/host/token/?resource=r", "PodNS: shop", f"podname: {name}"))).status == 200
    assert server.issuer.asked[0][0] == f"shop/{name}"


async def test_the_rules_of_the_token_path_hold_here_too(server: ServerUnderTest) -> None:
    refused(server, await server.ask(ask("/host/token/?resource=a&resource=b")), 400, "more than once")
    refused(server, await server.ask(ask("/host/token/?resource=a&client_id=b&object_id=c")), 400, "Only one of")
    reply = await server.ask(ask(method="POST"))
    refused(server, reply, 405, "GET")
    assert reply.headers["allow"] == "GET"


async def test_an_issuers_refusal_is_answered_as_on_the_token_path(server: ServerUnderTest) -> None:
    server.issuer.answer = refusing(Reason.POLICY, sentence="The type is not given out.")
    reply = await server.ask(ask())
    assert (reply.status, reply.json["error_description"]) == (403, "The type is not given out.")


async def test_imds_responses_about_the_nodes_own_identities_are_never_returned(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: RawAnswer(200, b'{"access_token":"secret-token"}', "application/json")
    reply = await server.ask(ask())
    assert reply.status == 404
    assert b"secret" not in reply.body


async def test_an_answer_of_this_path_never_becomes_a_ready_answer(server: ServerUnderTest) -> None:
    for _ in range(2):
        assert (await server.ask(ask(f"/host/token/?resource={RESOURCE}"))).status == 200
    assert len(server.issuer.asked) == 2
    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None


async def test_an_unknown_pod_adds_no_metric_label(server: ServerUnderTest) -> None:
    server.issuer.answer = lambda _: grant(PodRecord(None))
    for name in ("a", "b", "c"):
        await server.ask(ask("/host/token/?resource=r", f"podns: {name}", "podname: x"))
    assert server.labels() == {("/host/token", "200", "", "other")}


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
async def test_a_probe_of_the_kubelet_is_refused_whatever_headers_the_pod_overrides(
    server: ServerUnderTest, headers: tuple[str, ...]
) -> None:
    """The kubelet, a process of the node, sends them."""
    refused(server, await server.ask(ask("/host/token/?resource=r", *NAMED, *headers)), 403, "node")
    assert server.measures.refusals(Reason.NOT_FROM_HOST) == 1


@pytest.mark.parametrize(
    "headers", [(), ("User-Agent: Go-http-client/1.1", "Accept-Encoding: gzip"), ("Connection: Keep-Alive",)]
)
async def test_the_documented_clients_of_the_path_are_served(server: ServerUnderTest, headers: tuple[str, ...]) -> None:
    assert (await server.ask(ask("/host/token/?resource=r", *NAMED, *headers))).status == 200
