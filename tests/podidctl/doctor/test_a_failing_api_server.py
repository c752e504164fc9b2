"""An API server that answers with errors, or not at all: the next action is not more permissions."""

import asyncio

import pytest

from podidctl.diagnosis.gather import or_failure
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor import gather
from podidctl.doctor.binding_permissions import check_binding_permissions
from podidctl.doctor.daemon_uses import check_daemon_uses
from podidctl.doctor.schema import Finding, Level
from podidctl.doctor.state import DaemonUses, FederatedAccess
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden, NoResponse
from podidentity_sandbox.kubeapi.server import Recorded
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import run
from tests.podidctl.doctor_inputs import bad, examined

FAILED = ReadFailure("500 InternalError", is_forbidden=False)


@pytest.mark.parametrize(
    "findings",
    [
        bad(examined(rights=FAILED)),
        bad(examined(mic=FAILED))[:1],
        list(check_daemon_uses(DaemonUses(FAILED, FAILED))),
        list(check_binding_permissions(FederatedAccess(unpermitted=FAILED), ())),
    ],
    ids=["rights", "mic", "daemon-uses", "bindings"],
)
def test_the_next_action_is_about_the_server(findings: list[Finding]) -> None:
    assert findings
    for each in findings:
        assert each.level is Level.UNKNOWN
        assert each.next.startswith("try again; if it fails again, check the API server")


def test_a_forbidden_read_needs_more_permissions() -> None:
    (line,) = bad(examined(rights=ReadFailure("not allowed: x")))
    assert line.next == "run this command with more permissions (get and list on the named resource)"


async def test_a_read_records_whether_it_was_forbidden() -> None:
    async def fail(error: ApiError) -> None:
        raise error

    forbidden, failed = (
        await or_failure(fail(Forbidden(403, "Forbidden", "no"))),
        await or_failure(fail(ApiError(500, "InternalError", "broken"))),
    )
    assert isinstance(forbidden, ReadFailure)
    assert isinstance(failed, ReadFailure)
    assert (forbidden.is_forbidden, failed.is_forbidden) == (True, False)


async def test_the_program_with_a_failing_server(cloud: EmulatedCloud) -> None:
    def fail(request: Recorded) -> StatusError | None:
        return StatusError(500, "InternalError", "broken") if "podidctl" in request.user_agent else None

    cloud.api.intercept = fail
    answer = await run(cloud.folder, "podidctl", "doctor", "-o", "json", cloudconfig=False)
    assert (answer.code, answer.err) == (1, "")
    found = {each["check"]: each["next"] for each in answer.document["findings"]}
    assert {"NMI", "MIC", "leader", "objects"} <= set(found)
    for check in ("NMI", "MIC", "leader", "objects"):
        assert found[check].startswith("try again"), check


async def test_the_error_about_a_silent_server_states_the_server_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "VERSION_SECONDS", 0.05)
    connections: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    try:
        async with Client(ClusterAccess(url), user_agent="test") as client:
            with pytest.raises(NoResponse, match=rf"no response from {url} within 0\.05 s"):
                await gather._server(client)
    finally:
        for each in connections:
            each.close()
        silent.close()
