"""A soak of seconds instead of minutes, and its verdict. Excluded: NMI's speed."""

import base64
import json
import socket
from collections.abc import Iterator

import pytest

from tests.nightly.soak.load import Address, Link, Load
from tests.nightly.soak.run import Plan, soak

SHORT = Plan(seconds=14.0, pods=60, identities=8, rate=1000.0, changes=4.0, fault_seconds=3.0)


@pytest.mark.timeout(120)
async def test_no_pod_gets_a_foreign_token_while_pods_and_servers_change() -> None:
    report = await soak(SHORT)
    assert report.broken() == [], report.summary()
    assert report.counts["requests"] > 0
    assert sum(report.changes.values()) > 0
    assert report.faults


def body_of(client: str) -> bytes:
    claims = base64.urlsafe_b64encode(json.dumps({"appid": client}).encode()).rstrip(b"=").decode()
    return json.dumps({"access_token": f"head.{claims}.signature"}, separators=(",", ":")).encode()


@pytest.fixture
def load() -> Iterator[Load]:
    """A load that receives no commands, with an address that has passed from `old` to `new`."""
    orders, ours = socket.socketpair()
    with orders, ours:
        made = Load("127.0.0.1", 9, commands=orders.fileno())
        made.own("127.77.0.1", 1, ("old",))
        made.own("127.77.0.1", 2, ("new", "second"))
        yield made
        made.close()


def judged(load: Load, client: str, *, oldest: int, named: str = "") -> bool:
    """Whether a token of *client* is right for a request that was sent when the tenure *oldest* was possible still."""
    address: Address = load.addresses["127.77.0.1"]
    with socket.socket() as sock:
        load.judge(Link(sock, address, kept=True, oldest=oldest, named=named), body_of(client), now=0.0)
    return load.counts["wrong"] == 0


@pytest.mark.parametrize(
    ("client", "oldest", "named", "right"),
    [
        ("new", 2, "", True),
        ("second", 2, "second", True),
        ("old", 1, "", True),  # in flight when the address changed hands
        ("old", 2, "", False),
        ("stranger", 0, "", False),
        ("new", 2, "second", False),
    ],
)
def test_a_token_is_correct_only_if_its_owner_had_the_address(
    load: Load, client: str, oldest: int, named: str, right: bool
) -> None:
    assert judged(load, client, oldest=oldest, named=named) is right
