"""--require-redirected in the general lane. Excluded: the fast lane (tests/native), /host/token (test_host_tokens)."""

import pytest

from nmi.server.policy import ServerPolicy
from tests.nmi.server.fakes import TARGET, ServerUnderTest, request_bytes

METADATA = ("169.254.169.254", 80)
DEMANDING = ServerPolicy(redirected_from=METADATA)
PATHS = [
    TARGET,
    "/metadata/instance",
    "/metadata/versions",
    "/metadata/identity/info",
    "/",
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
async def test_a_redirected_connection_is_served(path: str) -> None:
    assert (await ServerUnderTest(DEMANDING, meant=METADATA).ask(request_bytes(path))).status == 200


@pytest.mark.parametrize("policy", [ServerPolicy(), DEMANDING])
async def test_the_general_lane_uses_the_decision_of_the_lane_and_does_not_ask_the_kernel(policy: ServerPolicy) -> None:
    server = ServerUnderTest(policy, meant=METADATA)
    assert (await server.ask(request_bytes())).status == 200
    assert server.connection.looked == 0
