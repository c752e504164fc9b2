"""The methods and bodies that are forwarded to IMDS by the operator's settings. Excluded: paths (test_targets)."""

import pytest

from nmi.server.policy import ServerPolicy
from nmi.server.proxied_path import PROXIED, READING
from nmi.server.target import ProxiedPaths
from tests.support.nmi.server.fakes import TOKEN_PATH, ServerUnderTest, request_bytes

ALLOWED = ServerPolicy(proxied_paths=ProxiedPaths(("/metadata/scheduledevents",)))
EVERYTHING = ServerPolicy(proxied_paths=ProxiedPaths(everything=True))


async def status(policy: ServerPolicy, method: str, path: str) -> int:
    server = ServerUnderTest(policy)
    reply = await server.ask(request_bytes(path, method=method), heads_only=method == "HEAD")
    assert len(server.proxy.forwarded) == (reply.status == 200)
    return reply.status


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_instance_metadata_is_read_only_an_allowed_path_accepts_writes_and_allow_all_accepts_any_method(
    method: str,
) -> None:
    assert await status(ServerPolicy(), method, "/metadata/instance") == (200 if method in READING else 405)
    assert await status(ALLOWED, method, "/metadata/instance") == (200 if method in READING else 405)
    assert await status(ALLOWED, method, "/metadata/scheduledevents") == (200 if method in PROXIED else 405)
    for path in ("/metadata/instance", "/metadata/scheduledevents", "/other"):
        assert await status(EVERYTHING, method, path) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("CONNECT", path) for path in ("/metadata/instance", TOKEN_PATH, "/elsewhere", "169.254.169.254:80", "*")),
        *(("TRACE", path) for path in ("/metadata/instance", TOKEN_PATH, "/metadata/identity/info", "/elsewhere", "*")),
    ],
)
async def test_connect_and_trace_are_refused_for_every_target(method: str, path: str) -> None:
    for policy in (ServerPolicy(), ALLOWED, EVERYTHING):
        assert await status(policy, method, path) == 405


@pytest.mark.parametrize("method", ["BREW", "MKCOL", "M-SEARCH", "PRI", "DESCRIBE", "UPDATEREDIRECT"])
@pytest.mark.parametrize("path", ["/metadata/instance", TOKEN_PATH])
async def test_an_unknown_method_is_refused_and_the_connection_continues(
    server: ServerUnderTest, method: str, path: str
) -> None:
    body = request_bytes(path, method=method, headers=("Content-Length: 3", "Metadata: true"), body=b"abc")
    for request in (request_bytes(path, method=method), body, request_bytes()):
        server.lane.data_received(request)
        await server.settle()
    found = server.replies()
    assert [each.status for each in found] == [405, 405, 200]
    assert "GET" in found[0].headers["allow"]
    assert server.proxy.forwarded == []


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_with_allow_all_identity_paths_and_nmis_own_paths_are_still_not_forwarded(method: str) -> None:
    for path in ("/metadata/identity/info", "/metadata/identity/issuecredential", "/host/x", "/host"):
        assert await status(EVERYTHING, method, path) == 404


async def test_blocking_instance_metadata_takes_precedence_over_allow_all() -> None:
    policy = ServerPolicy(proxied_paths=ProxiedPaths(everything=True), block_instance_metadata=True)
    assert await status(policy, "GET", "/metadata/instance") == 403
    assert await status(policy, "GET", "/metadata/./Instance/compute") == 403
    assert await status(policy, "GET", "/metadata/versions") == 200
