"""The Go implementation's lock if it is forbidden or unreadable, and its duration."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from podidentity.kube.errors import LeadershipLost
from podidentity.kube.lease import Elector
from podidentity.kube.lock_records import LEADER_ANNOTATION
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError, forbidden
from tests.support.memory_api import MemoryApi
from tests.support.waiting import until
from tests.virtual_time import now

Run = Callable[..., tuple[Elector, "asyncio.Task[None]"]]


@pytest.fixture
async def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
async def run(api: MemoryApi) -> AsyncIterator[Run]:
    """Starts an elector; it ends with the test."""
    tasks: list[asyncio.Task[None]] = []
    async with api.client("test") as client:

        def start(seconds: float = 2.0, **options: Any) -> tuple[Elector, asyncio.Task[None]]:
            elector = Elector(
                client,
                namespace="default",
                name="mic",
                identity="ours",
                duration_seconds=seconds,
                with_go_implementation=True,
                **{"clock": now, **options},
            )
            tasks.append(asyncio.create_task(elector.run()))
            return elector, tasks[-1]

        yield start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make(api: MemoryApi, annotation: str = "") -> None:
    annotations = {LEADER_ANNOTATION: annotation} if annotation else {}
    api.store.create("endpoints", {"metadata": {"name": "mic", "namespace": "default", "annotations": annotations}})


def record(api: MemoryApi) -> dict[str, Any]:
    return dict(json.loads(api.store.get("endpoints", "mic", "default")["metadata"]["annotations"][LEADER_ANNOTATION]))


def refuse(api: MemoryApi, *methods: str) -> None:
    def intercept(request: Recorded) -> StatusError | None:
        refused = request.method in methods and "/endpoints" in request.path
        return forbidden("endpoints", "", "mic", "no rule") if refused else None

    api.intercept = intercept


def requests(api: MemoryApi, method: str, kind: str) -> int:
    return sum(each.method == method and f"/{kind}" in each.path for each in api.requests)


async def test_without_permission_to_read_the_lock_mic_leads_and_logs_the_consequence_once(
    api: MemoryApi, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(api, "GET", "PUT")
    elector, process = run()
    await asyncio.wait_for(elector.acquired(), 15)
    await until(lambda: requests(api, "GET", "endpoints") > 4)
    assert not process.done()
    assert elector.remaining_seconds() > 0
    records = [each for each in caplog.records if "grant get and update" in each.getMessage()]
    assert [each.levelno for each in records] == [logging.ERROR]


@pytest.mark.parametrize("there", [True, False])
async def test_a_leader_logs_the_go_implementations_lock_only_if_it_exists(
    api: MemoryApi, run: Run, caplog: pytest.LogCaptureFixture, there: bool
) -> None:
    if there:
        make(api)
    with caplog.at_level(logging.INFO):
        elector, _ = run()
        await elector.acquired()
    (resource,) = [each.__dict__["resource"] for each in caplog.records if each.message == "became leader"]
    assert resource == ("Endpoints default/mic, " if there else "") + "Lease default/mic"


async def test_a_readable_lock_that_cannot_be_acquired_prevents_the_leadership(
    api: MemoryApi, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    make(api)
    refuse(api, "PUT")
    elector, _ = run()
    await until(lambda: requests(api, "PUT", "endpoints") > 1)
    assert elector.remaining_seconds() == 0
    assert requests(api, "POST", "leases") == 0
    assert "grant get, create and update of it" in caplog.text
    api.intercept = None
    await asyncio.wait_for(elector.acquired(), 15)


@pytest.mark.parametrize("methods", [("GET", "PUT"), ("PUT",)])
async def test_a_permission_revoked_while_mic_holds_the_lock_ends_the_leadership(
    api: MemoryApi, run: Run, methods: tuple[str, ...]
) -> None:
    make(api)
    elector, process = run()
    await asyncio.wait_for(elector.acquired(), 15)
    refuse(api, *methods)
    with pytest.raises(LeadershipLost, match=r"Endpoints default/mic.*no renewal succeeded"):
        await asyncio.wait_for(process, 15)


async def test_a_candidate_that_can_no_longer_read_the_lock_does_not_continue_without_it(
    api: MemoryApi, run: Run
) -> None:
    elector, process = run()
    await asyncio.wait_for(elector.acquired(), 15)
    broken = StatusError(500, "InternalError", "etcd")
    api.intercept = lambda request: broken if "/endpoints" in request.path else None
    with pytest.raises(LeadershipLost, match=r"Endpoints default/mic.*no renewal succeeded"):
        await asyncio.wait_for(process, 15)


@pytest.mark.parametrize("text", ["{", "[" * 60_000, '{"a":' * 60_000])
async def test_an_unreadable_record_counts_as_held_until_it_is_unchanged_for_the_duration(
    api: MemoryApi, run: Run, text: str
) -> None:
    now = [1000.0]
    make(api, text)
    elector, _ = run(clock=lambda: now[0])
    await until(lambda: requests(api, "GET", "endpoints") > 3)
    assert elector.remaining_seconds() == 0
    now[0] += 2.0
    await asyncio.wait_for(elector.acquired(), 15)
    assert record(api)["holderIdentity"] == "ours"


async def test_the_lock_for_the_go_implementation_is_valid_no_longer_than_the_go_implementation_waits(
    api: MemoryApi, run: Run
) -> None:
    now = [1000.0]
    make(api)
    elector, _ = run(seconds=60.0, clock=lambda: now[0])
    await asyncio.wait_for(elector.acquired(), 15)
    assert record(api)["leaseDurationSeconds"] == 15
    assert elector.remaining_seconds() == 15
    now[0] += 15.0
    assert elector.remaining_seconds() == 0, "although the Lease has 45 seconds left"


async def test_each_renewal_changes_the_text_that_the_go_implementation_observes(api: MemoryApi, run: Run) -> None:
    make(api)
    seen: list[str] = []
    api.store.subscribe("endpoints", lambda change: seen.append(change.item.document["metadata"]["resourceVersion"]))
    moments = (datetime(2024, 5, 6, 7, 8, 9, millisecond * 1000, UTC) for millisecond in range(1000))
    elector, _ = run(now=lambda: next(moments))  # all of them within one second
    await asyncio.wait_for(elector.acquired(), 15)
    await until(lambda: requests(api, "PUT", "endpoints") >= 4)
    assert len(seen) >= 3
