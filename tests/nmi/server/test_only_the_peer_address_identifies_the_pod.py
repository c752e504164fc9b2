"""A request is served by the address of its connection; its own content does not matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmi.server.policy import ServerPolicy
from tests.nmi.server.fakes import PEER, TARGET, ServerUnderTest, request_bytes

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
