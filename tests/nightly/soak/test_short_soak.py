"""A soak of seconds instead of minutes, and its verdict. Excluded: NMI's speed."""

import pytest

from tests.nightly.soak.load import Address
from tests.nightly.soak.run import Plan, soak

SHORT = Plan(seconds=14.0, pods=60, identities=8, rate=1000.0, changes=4.0, fault_seconds=3.0)


async def test_no_pod_gets_a_foreign_token_while_pods_and_servers_change() -> None:
    report = await soak(SHORT)
    assert report.broken == [], report
    assert report.undisturbed > 0
    assert report.faults


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
    client: str, oldest: int, named: str, right: bool
) -> None:
    address = Address("127.77.0.1", tenures=[(), ("old",), ("new", "second")])
    assert address.permits(client, oldest, named) is right
