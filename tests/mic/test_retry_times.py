"""The messages of objects that wait for Azure name throttling or quarantine, and the time of the next attempt."""

import asyncio
from datetime import UTC, datetime

from mic.azure.errors import BadIdentities, Throttled
from mic.azure.identities import Attached, HostIdentities
from mic.azure.memory import HostMemory
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic import VM, MicWorld
from tests.support.objects import identity_id


def throttled(retry_after: float | None = None) -> Throttled:
    return Throttled("slow down", status=429, code="TooManyRequests", retry_after=retry_after)


async def passes(world: MicWorld, count: int) -> None:
    for _ in range(count):
        done = await world.reconcile()
        await asyncio.sleep(done.again_after or 0.0)


async def test_a_throttled_read_is_reported_immediately_and_the_report_is_written_once(world: MicWorld) -> None:
    world.bind()
    world.fail("get", *(throttled(2.0) for _ in range(4)))
    writes: list[Recorded] = []
    await passes(world, 1)
    message = world.message("demo-default-demo")
    assert message.startswith("Azure throttles MIC's calls for /subscriptions/")
    assert message.endswith("(429 TooManyRequests); MIC tries again within 2 minutes")
    assert "Pod demo" in await world.warned()
    world.api.intercept = lambda request: writes.append(request) if request.method != "GET" else None
    await passes(world, 3)
    assert not [each for each in writes if "azureassignedidentities" in each.path]
    await passes(world, 3)
    assert world.statuses() == {"demo-default-demo": "Assigned"}
    assert world.message("demo-default-demo") == ""


async def test_a_throttled_update_is_reported_immediately(world: MicWorld) -> None:
    world.bind()
    world.fail("update", throttled())
    await passes(world, 1)
    assert "(429 TooManyRequests)" in world.message("demo-default-demo")


async def test_throttling_does_not_withdraw_an_assigned_identity(world: MicWorld) -> None:
    world.bind()
    await passes(world, 2)
    world.hosts.state = HostIdentities(etag='"1"', attached={"other": Attached("other")})
    world.fail("update", *(throttled() for _ in range(5)))
    world.host_reconciler.look_again(VM)
    await passes(world, 2)
    assert world.statuses() == {"demo-default-demo": "Assigned"}


async def test_a_refused_identity_is_reported_as_quarantined(world: MicWorld) -> None:
    world.bind()
    error = BadIdentities("linked scopes", status=403, code="LinkedAuthorizationFailed")
    error.ids = frozenset([identity_id("demo").lower()])
    world.fail("update", error)
    await passes(world, 1)
    message = world.message("demo-default-demo")
    assert message.endswith("(LinkedAuthorizationFailed); quarantined: MIC tries again within 2 minutes")


def test_a_long_pause_has_a_time_that_is_rounded_up_to_a_minute() -> None:
    memory = HostMemory(lambda: 0.0, now=lambda: datetime(2026, 1, 1, 23, 55, 30, tzinfo=UTC))
    assert memory.retry_text(120.0) == "MIC tries again within 2 minutes"
    assert memory.retry_text(240.0) == "MIC tries again at 2026-01-02T00:00Z"
    for _ in range(4):
        memory.quarantine("key", "no")
    assert memory.quarantined() == {"key": "no; quarantined: MIC tries again at 2026-01-02T00:00Z"}
