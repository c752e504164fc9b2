"""A request is served by the address of its connection; its own content does not matter.

`--require-redirected`, here in the general lane, refuses connections that were not redirected. Excluded: the fast lane
(tests/contract/native), /host/token (test_host_tokens).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.server.policy import ServerPolicy
from tests.support.nmi.server.fakes import PEER, TARGET, ServerUnderTest, request_bytes

OTHER = "10.0.0.99"
NAMES = st.sampled_from(
    ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Client-IP", "True-Client-IP", "X-Client-IP", "Via", "podname"]
) | st.from_regex(r"[A-Za-z][A-Za-z0-9-]{1,24}", fullmatch=True).filter(
    lambda name: name.lower() not in {"te", "host", "expect", "metadata", "content-length", "content-type", "upgrade"}
)
FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([OTHER, f"for={OTHER}", "ns/other", "other"])), max_size=5)


@pytest.mark.parametrize(
    "fields",
    [
        (f"X-Forwarded-For: {OTHER}",),
        (f"x-real-ip: {OTHER}", f"Forwarded: for={OTHER}"),
        ("podname: other", "podns: ns"),
        (f"X-Client-IP: {OTHER}", "X-Pod-Uid: uid-other"),
    ],
)
@pytest.mark.parametrize("query", ["", f"&ip={OTHER}&podname=other&podns=ns&uid=uid-other"])
async def test_no_field_and_no_parameter_identifies_the_pod(fields: tuple[str, ...], query: str) -> None:
    server = ServerUnderTest(ServerPolicy(allow_x_forwarded_for=True))
    reply = await server.ask(request_bytes(TARGET + query, headers=("Metadata: true", *fields)))
    assert reply.status == 200
    assert [peer for peer, _ in server.issuer.asked] == [PEER]


@given(FIELDS)
async def test_the_peers_address_identifies_the_pod_whatever_fields_are_sent(fields: list[tuple[str, str]]) -> None:
    server = ServerUnderTest(ServerPolicy(allow_x_forwarded_for=True))
    lines = tuple(f"{name}: {value}" for name, value in fields)
    await server.ask(request_bytes(headers=("Metadata: true", *lines)))
    assert {peer for peer, _ in server.issuer.asked} <= {PEER}


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
    assert (server.issuer.asked, server.proxy.forwarded) == ([], [])


@pytest.mark.parametrize("path", [TARGET, "/metadata/instance"])
@pytest.mark.parametrize("policy", [ServerPolicy(), DEMANDING])
async def test_a_redirected_connection_is_served_by_the_decision_of_the_lane(path: str, policy: ServerPolicy) -> None:
    server = ServerUnderTest(policy, meant=METADATA)
    assert (await server.ask(request_bytes(path))).status == 200
    assert server.connection.looked == 0, "the kernel is not asked again"
