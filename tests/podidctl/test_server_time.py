"""The API server's clock decides whether a refusal is recent, not the clock of the operator's machine."""

from datetime import UTC, datetime, timedelta

import pytest

from podidctl.diagnosis.gather import gather
from podidctl.diagnosis.server_time import clock_difference, server_now
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.kube.errors import NoResponse
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import EmulatedCloud

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def connect(cloud: EmulatedCloud, found: access.ClusterAccess) -> Client:
    return Client(found, user_agent="test")


async def kubeconfig(cloud: EmulatedCloud) -> access.ClusterAccess:
    return await access.find(str(cloud.folder / "kubeconfig"), {})


@pytest.mark.parametrize("hours", [-1, 0, 1])
async def test_a_wrong_clock_of_this_machine_is_corrected(cloud: EmulatedCloud, hours: int) -> None:
    async with connect(cloud, await kubeconfig(cloud)) as client:
        found = await server_now(client, now=lambda: datetime.now(UTC) + timedelta(hours=hours))
    assert abs(found - datetime.now(UTC)) < timedelta(minutes=5)


async def test_without_the_servers_time_this_machines_counts(cloud: EmulatedCloud) -> None:
    def refuse(_call: Recorded) -> None:
        raise StatusError(403, "Forbidden", "not you")

    cloud.api.intercept = refuse
    async with connect(cloud, await kubeconfig(cloud)) as client:
        assert await server_now(client, now=lambda: NOON) == NOON


async def test_a_server_that_does_not_respond_is_an_error(cloud: EmulatedCloud) -> None:
    found = await kubeconfig(cloud)
    await cloud.api.stop()
    async with connect(cloud, found) as client:
        with pytest.raises(NoResponse):
            await server_now(client)


async def test_a_diagnosis_has_the_servers_time(cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async def server(_client: Client) -> datetime:
        return NOON

    monkeypatch.setattr("podidctl.diagnosis.gather.server_now", server)
    cloud.node("n0")
    cloud.pod("web", "n0")
    async with connect(cloud, await kubeconfig(cloud)) as client:
        assert (await gather(client, "default", "web", given=None, azure=None)).now == NOON


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Thu, 01 Jan 2026 13:00:01 GMT", timedelta(hours=1, seconds=0.5)),
        ("Thu, 01 Jan 2026 11:00:01 -0000", timedelta(hours=-1, seconds=0.5)),
        ("", None),
        ("yesterday", None),
        ("Thu, 99 Jan 2026 13:00:01 GMT", None),
    ],
)
def test_the_difference_is_to_the_middle_of_the_request(date: str, ahead: timedelta | None) -> None:
    assert clock_difference(date, NOON, 2.0) == ahead
