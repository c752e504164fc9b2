"""Numeric forms of the metadata service's address in a request neither lead elsewhere nor bypass a check.

NMI serves every redirected connection, whatever name or address the client used for it. Excluded: the rules that
redirect packets, which see the address itself, never a spelling of it (tests/nmi/node).
"""

import pytest

from nmi.server.policy import ServerPolicy
from nmi.server.target import Action, ProxiedPaths, resolve
from tests.nmi.server.fakes import TARGET, ServerUnderTest, request_bytes

FORMS = [
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
]
EVERYTHING = ProxiedPaths(everything=True)


@pytest.mark.parametrize("host", FORMS)
async def test_the_form_in_host_has_no_effect(host: str) -> None:
    expected = await ServerUnderTest().ask(request_bytes())
    for spelled in (host, f"{host}:80"):
        data = request_bytes().replace(b"Host: 169.254.169.254", f"Host: {spelled}".encode())
        found = await ServerUnderTest().ask(data)
        assert (found.status, found.json["access_token"]) == (200, expected.json["access_token"])


@pytest.mark.parametrize("host", FORMS)
def test_an_absolute_target_is_never_the_token_path_and_is_forwarded_by_its_path_alone(host: str) -> None:
    assert resolve(f"http://{host}{TARGET}", EVERYTHING).action is Action.REFUSE_DISGUISE
    found = resolve(f"http://{host}/metadata/instance", EVERYTHING)
    assert (found.action, found.path) == (Action.PROXY, "/metadata/instance")


@pytest.mark.parametrize("host", FORMS)
async def test_no_form_opens_a_tunnel(host: str) -> None:
    server = ServerUnderTest(ServerPolicy(proxied_paths=EVERYTHING))
    found = await server.ask(request_bytes(f"{host}:80", method="CONNECT"))
    assert found.status in {400, 405}
    assert server.proxy.forwarded == []
