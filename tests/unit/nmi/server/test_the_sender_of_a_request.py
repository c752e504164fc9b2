"""A request is served by the address of its connection; its own content does not matter.

`--require-redirected`, here in the general lane, refuses connections that were not redirected. /host/token serves only
processes of the node: the name of the pod, and the form of the response. Excluded: the fast lane
(tests/contract/native), and the identity that /host/token selects.
"""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from _native.index import PodRecord
from nmi.identity.request import SelectorKind
from nmi.refusal import Reason
from nmi.server.policy import ServerPolicy
from nmi.settings import NmiSettings
from podidentity.azure.imds import RawResponse
from tests.support.nmi.server.fakes import (
    PEER,
    RESOURCE,
    SECRET,
    TARGET,
    Reply,
    ServerUnderTest,
    grant,
    refusing,
    request_bytes,
    token,
)

OTHER = "10.0.0.99"
OF_THE_REQUEST = {"te", "transfer-encoding", "connection", "host", "expect", "metadata", "content-length", "upgrade"}
"""Fields with a meaning for the request itself."""
NAMES = st.sampled_from(
    ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP", "True-Client-IP", "X-Client-IP", "Via", "podname"]
) | st.from_regex(r"[A-Za-z][A-Za-z0-9-]{1,24}", fullmatch=True).filter(lambda name: name.lower() not in OF_THE_REQUEST)
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([OTHER, f"for={OTHER}", "ns/other", "other"])), max_size=5)


@given(FIELDS, st.sampled_from(["", f"&ip={OTHER}&podname=other&podns=ns&uid=uid-other"]))
@example([("x-real-ip", OTHER), ("Forwarded", f"for={OTHER}")], "")
@example([("podname", "other"), ("podns", "ns"), ("X-Pod-Uid", "uid-other")], f"&ip={OTHER}&podname=other")
async def test_no_field_and_no_parameter_identifies_the_pod(fields: list[tuple[str, str]], query: str) -> None:
    server = ServerUnderTest(ServerPolicy(allow_x_forwarded_for=True))
    lines = tuple(f"{name}: {value}" for name, value in fields)
    reply = await server.ask(request_bytes(TARGET + query, headers=("Metadata: true", *lines)))
    assert reply.status == 200
    assert [peer for peer, _ in server.token_service.requests] == [PEER]


async def account_of(peer: str, *, pod: bool) -> object:
    """Return the account that a request for instance metadata from *peer* is charged to."""
    server = ServerUnderTest(peer=peer)
    if not pod:
        server.index.remove(peer, server.entry.record)
    assert (await server.ask(request_bytes("/metadata/instance?api-version=2021-02-01"))).status == 200
    ((charged, _, _),) = server.proxy.forwarded
    assert pod == (charged == server.entry.key)
    return charged


async def test_addresses_without_a_pod_are_charged_together() -> None:
    """A client that changes its address with each request were a new account each time, and new accounts come first."""
    await account_of(PEER, pod=True)
    first, second = [await account_of(peer, pod=False) for peer in ("10.244.0.9", "10.244.0.10")]
    assert first == second


METADATA = ("169.254.169.254", 80)
DEMANDING = ServerPolicy(redirected_from=METADATA)
PATHS = [
    *(TARGET, "/metadata/instance", "/metadata/versions", "/metadata/identity/info", "/"),
    "/metadata/%69dentity/info",
]


@pytest.mark.parametrize("meant", [None, ("169.254.169.254", 8080), ("169.254.169.253", 80), ("10.0.0.1", 2579)])
@pytest.mark.parametrize("path", PATHS)
async def test_a_connection_that_was_not_redirected_is_refused_on_every_path(
    path: str, meant: tuple[str, int] | None
) -> None:
    server = ServerUnderTest(DEMANDING, meant=meant)
    reply = await server.ask(request_bytes(path))
    assert (reply.status, reply.json["error"]) == (403, "access_denied")
    assert "own address" in reply.json["error_description"]
    assert (server.token_service.requests, server.proxy.forwarded) == ([], [])


@pytest.mark.parametrize("path", [TARGET, "/metadata/instance"])
@pytest.mark.parametrize("policy", [ServerPolicy(), DEMANDING])
async def test_a_redirected_connection_is_served_by_the_decision_of_the_lane(path: str, policy: ServerPolicy) -> None:
    server = ServerUnderTest(policy, meant=METADATA)
    assert (await server.ask(request_bytes(path))).status == 200
    assert server.connection.looked == 0, "the kernel is not asked again"


HOST = "127.0.0.1"
NAMED = ("podns: shop", "podname: cart")


def ask(target: str = "/host/token/?resource=r", *headers: str, method: str = "GET") -> bytes:
    return request_bytes(target, method=method, headers=headers or NAMED)


@pytest.fixture
def server() -> ServerUnderTest:
    """A server and a connection of a process of the node."""
    return ServerUnderTest(peer=HOST)


def refused(server: ServerUnderTest, reply: Reply, status: int, word: str) -> None:
    assert reply.status == status
    assert word in reply.json["error_description"]
    assert SECRET.encode() not in reply.body
    assert server.token_service.requests == [], "nothing was looked up"


@pytest.mark.parametrize("path", ["/host/token/", "/host/token"])
async def test_a_node_process_gets_the_token_of_the_pod_that_it_names(server: ServerUnderTest, path: str) -> None:
    reply = await server.ask(ask(f"{path}?resource=r"))
    body = json.loads(reply.body)
    assert reply.status == 200
    assert list(body) == ["token", "clientid"]
    assert body["clientid"] == token().client_id
    on_the_token_path = (await ServerUnderTest().ask(request_bytes())).json
    for inner in (body["token"], on_the_token_path):
        assert 3000 < int(inner.pop("expires_in")) <= 3600
        del inner["ext_expires_in"]
    assert body["token"] == on_the_token_path
    assert server.token_service.requests[0][0] == "shop/cart"


@pytest.mark.parametrize(
    ("name", "kind"), [("client_id", SelectorKind.CLIENT_ID), ("msi_res_id", SelectorKind.RESOURCE_ID)]
)
async def test_one_of_several_identities_may_be_selected(
    server: ServerUnderTest, name: str, kind: SelectorKind
) -> None:
    assert (await server.ask(ask(f"/host/token/?resource=r&{name}=x"))).status == 200
    ((_, request),) = server.token_service.requests
    assert (request.resource, request.selector, request.selector_value) == ("r", kind, "x")


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
    assert NmiSettings(node_name="n").host_token_types == frozenset()


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
    assert server.token_service.requests[0][0] == f"shop/{name}"


async def test_the_rules_of_the_token_path_hold_here_too(server: ServerUnderTest) -> None:
    refused(server, await server.ask(ask("/host/token/?resource=a&resource=b")), 400, "more than once")
    refused(server, await server.ask(ask("/host/token/?resource=a&client_id=b&object_id=c")), 400, "Only one of")
    reply = await server.ask(ask(method="POST"))
    refused(server, reply, 405, "GET")
    assert reply.headers["allow"] == "GET"


async def test_an_issuers_refusal_is_answered_as_on_the_token_path(server: ServerUnderTest) -> None:
    server.token_service.respond = refusing(Reason.POLICY, sentence="The type is not given out.")
    reply = await server.ask(ask())
    assert (reply.status, reply.json["error_description"]) == (403, "The type is not given out.")


async def test_imds_responses_about_the_nodes_own_identities_are_never_returned(server: ServerUnderTest) -> None:
    server.token_service.respond = lambda _: RawResponse(200, b'{"access_token":"secret-token"}', "application/json")
    reply = await server.ask(ask())
    assert reply.status == 404
    assert b"secret" not in reply.body


async def test_an_answer_of_this_path_never_becomes_a_ready_response(server: ServerUnderTest) -> None:
    for _ in range(2):
        assert (await server.ask(ask(f"/host/token/?resource={RESOURCE}"))).status == 200
    assert len(server.token_service.requests) == 2
    assert server.entry.record.find(RESOURCE.encode(), 0, b"", b"", 0) is None


async def test_an_unknown_pod_adds_no_metric_label(server: ServerUnderTest) -> None:
    server.token_service.respond = lambda _: grant(PodRecord(None))
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
