"""`python -m mic` with more hanging writes than connections: the lease is renewed nevertheless."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from podidentity.kube.transport import CONNECTIONS_MAX
from tests.mic.emulated_cloud import emulated_cloud

pytestmark = pytest.mark.programs

LEASE_SECONDS = 12.0
"""MIC renews after a quarter of it and gives up after half: the rest exceeds a pause of this machine."""
LEASES = "leases.coordination.k8s.io"
PODS = CONNECTIONS_MAX + 20


async def test_hanging_writes_on_every_connection_do_not_cost_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with emulated_cloud(tmp_path) as cloud:
        hanging, released = 0, asyncio.Event()
        answer = cloud.api._handler.answer

        async def hang(request: Any, target: Any) -> Any:
            nonlocal hanging
            if request.method == "POST" and "azureassignedidentities" in request.path:
                hanging += 1
                await released.wait()
            return await answer(request, target)

        monkeypatch.setattr(cloud.api._handler, "answer", hang)
        cloud.node("n0")
        cloud.identity()
        await cloud.mic(f"--leader-election-duration={LEASE_SECONDS}s", "--createDeleteBatch=1000", "--clientQps=1000")
        for number in range(PODS):
            cloud.pod(f"web{number}", "n0")
        await cloud.until(lambda: hanging >= CONNECTIONS_MAX)
        before = cloud.api.store.get(LEASES, "aad-pod-identity-mic", "default")["spec"]
        renewals: list[dict[str, Any]] = []
        cloud.api.store.subscribe(LEASES, lambda change: renewals.append(change.item.document["spec"]))
        await cloud.until(lambda: len(renewals) == 2, "two renewals")
        assert {each["holderIdentity"] for each in renewals} == {before["holderIdentity"]}
        assert [each["renewTime"] for each in (before, *renewals)] == sorted(
            {each["renewTime"] for each in (before, *renewals)}
        )
        released.set()
        await cloud.until(lambda: list(cloud.assigned().values()) == ["Assigned"] * PODS)
