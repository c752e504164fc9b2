"""Requests that IMDS answers are charged to their pod; those of all addresses without a pod have one account together.

Otherwise a client that changes its address with each request is a new account each time, and new accounts come first.
"""

from tests.nmi.server.fakes import PEER, ServerUnderTest, request_bytes

DOCUMENT = "/metadata/instance?api-version=2021-02-01"


async def account_of(peer: str, *, pod: bool) -> object:
    server = ServerUnderTest(peer=peer)
    if not pod:
        server.index.remove(peer, server.entry.record)
    assert (await server.ask(request_bytes(DOCUMENT))).status == 200
    ((charged, _, _),) = server.proxy.forwarded
    assert pod == (charged == server.entry.key)
    return charged


async def test_a_pod_is_charged_for_its_requests() -> None:
    await account_of(PEER, pod=True)


async def test_addresses_without_a_pod_are_charged_together() -> None:
    first, second = [await account_of(peer, pod=False) for peer in ("10.244.0.9", "10.244.0.10")]
    assert first == second
