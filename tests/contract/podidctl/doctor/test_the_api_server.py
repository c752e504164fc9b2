"""The leader, the API server and its clock, the custom resources; and a server that fails."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mic.startup.object_upgrade import KINDS
from podidctl.checks.federated import check_binding_permissions
from podidctl.checks.permissions import check_daemon_uses
from podidctl.facts.model import (
    DaemonUses,
    FederatedAccess,
    Locks,
    ReadFailure,
    Right,
    Rights,
    ServerState,
    StoredObjects,
)
from podidctl.reading.requests import or_failure, read_server, server_clock
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Finding, Level
from podidentity.kube.access import ClusterAccess
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, Forbidden
from podidentity.kube.lock_records import LockRecord
from tests.support.podidctl.doctor_inputs import bad, cluster_case, definition, examined, lock_record, one
from tests.support.raw_server import RawServer, Reply

NAME = ("default", "aad-pod-identity-mic")
OLD = "2026-01-01T11:00:00Z"
SENT = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("locks", "text"),
    [
        ((Locks(*NAME),), "no MIC leads"),
        (
            (Locks(*NAME, lock_record(renewed=OLD)),),
            "no MIC leads: neither Lease nor Endpoints default/aad-pod-identity-mic is",
        ),
        ((Locks(*NAME, LockRecord()),), "no MIC leads"),
        ((Locks(*NAME, lock_record(), lock_record("theirs")),), "theirs holds the Go implementation's lock"),
        ((Locks(*NAME, lock_record()), Locks("kube-system", "mic", lock_record())), "different names"),
    ],
    ids=["no-lock", "run-out", "given-up", "go-implementation-too", "two-names"],
)
def test_no_leader_or_two_leaders_are_a_problem(locks: tuple[Locks, ...], text: str) -> None:
    line = one(examined(locks=locks))
    assert (line.check, line.level) == ("leader", Level.PROBLEM)
    assert text in line.says


@pytest.mark.parametrize(
    "locks",
    [
        Locks(*NAME, lock_record(), lock_record()),
        Locks(*NAME, lock_record(), lock_record("theirs", renewed=OLD)),
        Locks(*NAME, None, lock_record("theirs")),
        Locks(*NAME, lock_record(renewed="yesterday")),
    ],
    ids=["both-ours", "the-reference-gone", "the-reference-alone", "unreadable-time"],
)
def test_one_leader_is_ok(locks: Locks) -> None:
    assert bad(examined(locks=(locks,))) == []


def test_the_leader_is_named_with_its_locks() -> None:
    report = examined(locks=(Locks(*NAME, lock_record(), lock_record()),))
    (line,) = [finding for finding in report.findings if finding.check == "leader"]
    assert line.says == "mic-1 holds Lease default/aad-pod-identity-mic and the lock of the Go implementation"
    behind = lock_record(renewed="2026-01-01T11:53:15.000000Z")  # five seconds before the server's time
    lines = bad(examined(server=ServerState("v1.31.0", -400.0, 0.5), locks=(Locks(*NAME, behind),)))
    assert [finding.check for finding in lines] == ["clocks"]


@pytest.mark.parametrize(
    ("ahead", "level"),
    [(0.4, None), (-29.0, None), (31.0, Level.WARNING), (-31.0, Level.WARNING), (400.0, Level.PROBLEM)],
)
def test_a_wrong_clock_is_reported(ahead: float, level: Level | None) -> None:
    lines = [
        finding for finding in bad(examined(server=ServerState("v1.31.0", ahead, 0.5))) if finding.check == "clocks"
    ]
    assert [finding.level for finding in lines] == ([] if level is None else [level])


def test_old_servers_and_uncertain_clocks_are_reported() -> None:
    assert "upgrade to 1.16" in one(examined(server=ServerState("v1.15.9", 0.0))).next
    assert one(examined(server=ServerState("v1.31.0"))).level is Level.UNKNOWN
    assert bad(examined(server=ServerState("mine", 0.0))) == []
    assert one(examined(server=ServerState("", 0.0))).level is Level.UNKNOWN
    assert bad(examined(server=ServerState("v1.31.0", 35.0, 10.0))) == []
    server = server_clock("v1.31.0", "Thu, 01 Jan 2026 12:00:10 GMT", SENT, 4.0)
    assert (server.ahead_seconds, server.uncertain_seconds) == (8.5, 2.5)
    assert server_clock("v1.31.0", "soon", SENT, 4.0).ahead_seconds is None
    assert server_clock("v1.31.0", "", SENT, 4.0).ahead_seconds is None


@pytest.mark.parametrize(
    ("parts", "version"),
    [((b'{"gitVer', b'sion": "v1.31.0"}'), "v1.31.0"), ((b"<html>", b"log in</html>"), ""), ((b" " * 40_000,) * 9, "")],
    ids=["in-two-parts", "a-page", "too-long"],
)
async def test_the_version_may_arrive_in_parts(parts: tuple[bytes, ...], version: str) -> None:
    async with RawServer() as server, Client(ClusterAccess(server.url), user_agent="t") as client:
        server.replies.append(Reply(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, parts)), *parts))
        assert (await read_server(client)).version == version


@pytest.mark.parametrize(
    ("there", "level", "text"),
    [
        (None, Level.PROBLEM, "1 CustomResourceDefinition does not exist"),
        (definition(served=False), Level.PROBLEM, "v1 is not served"),
        (definition(name="v1beta1"), Level.PROBLEM, "v1 is not served"),
        (definition(storage=False), Level.WARNING, "another version is stored"),
        (definition(schema={"openAPIV3Schema": {}}), Level.WARNING, "drops unknown fields"),
        (definition(preserve_unknown_fields=True), Level.WARNING, "is from version v1beta1"),
        (definition(preserve_unknown_fields=True, schema=None), Level.WARNING, "is from version v1beta1"),
        (ReadFailure("not allowed"), Level.UNKNOWN, "not allowed"),
    ],
)
def test_an_unsuitable_definition_is_reported(there: Any, level: Level, text: str) -> None:
    kinds = {kind.plural: definition() for kind in KINDS} | {"azureidentities": there}
    line = one(examined(definitions=kinds))
    assert (line.check, line.level) == ("definitions", level)
    assert "azureidentities" in line.says
    assert text in line.says


def test_old_field_names_and_unreadable_objects_are_named() -> None:
    report = examined(stored={"azureidentities": StoredObjects(("ns/old",), ("ns/broken",))})
    assert [(finding.check, finding.level) for finding in bad(report)] == [
        ("objects", Level.PROBLEM),
        ("spellings", Level.WARNING),
    ]
    assert "NMI ignores these fields" in bad(report)[1].next
    assert bad(examined(stored={"azureidentities": StoredObjects()})) == []


def test_a_missing_required_permission_is_named_and_a_missing_optional_one_is_a_warning() -> None:
    needed, optional = Right("list", "", "pods"), Right("create", "", "events", purpose="Events")
    report = examined(rights=(Rights("NMI", "kube-system/nmi", (needed, optional)),))
    assert [finding.level for finding in bad(report)] == [Level.PROBLEM, Level.WARNING]
    assert "NMI's service account kube-system/nmi may not: list pods" in bad(report)[0].says
    assert "without: Events" in bad(report)[1].says
    assert bad(examined(rights=(Rights("NMI", "kube-system/nmi"),))) == []
    line = one(examined(rights=(Rights("MIC", "podid/mic", unread_record=ReadFailure("not allowed: c")),)))
    assert line.level is Level.UNKNOWN
    assert line.says.endswith("is unknown: not allowed: c")


def test_permissions_of_a_finished_type_upgrade_are_named_without_a_warning() -> None:
    """An installation is in order between MIC's record and the next `helm upgrade`."""
    report = examined(rights=(Rights("MIC", "podid/mic", spare=(Right("update", "", "pods"),)),))
    assert bad(report) == []
    (line,) = (finding for finding in report.findings if finding.check == "rights")
    start = "MIC's service account podid/mic may still: update pods, although the type upgrade is done or off; "
    assert line.says.startswith(start)
    for way in ("helm upgrade", "--enable-type-upgrade=false", "kubectl delete -f deploy/manifests/type-upgrade.yaml"):
        assert way in line.says


FAILED = ReadFailure("500 InternalError", is_forbidden=False)


@pytest.mark.parametrize(
    "findings",
    [
        bad(examined(rights=FAILED)),
        bad(examined(mic=FAILED))[:1],
        list(check_daemon_uses(cluster_case(daemon_uses=DaemonUses(FAILED, FAILED)))),
        list(check_binding_permissions(FederatedAccess(unpermitted=FAILED), ())),
    ],
    ids=["rights", "mic", "daemon-uses", "bindings"],
)
def test_the_next_action_is_about_the_server(findings: list[Finding] | list[CheckResult]) -> None:
    assert findings
    for finding in findings:
        assert finding.level is Level.UNKNOWN
        assert finding.next.startswith("try again, with --request-timeout=30s if the API server is slow;")


def test_a_forbidden_read_needs_more_permissions() -> None:
    (line,) = bad(examined(rights=ReadFailure("not allowed: x")))
    assert line.next == "run this command with more permissions (the one that this finding names)"


@pytest.mark.parametrize(("status", "is_forbidden"), [(403, True), (500, False)])
async def test_a_read_records_whether_it_was_forbidden(status: int, *, is_forbidden: bool) -> None:
    async def fail() -> None:
        raise Forbidden(status, "Forbidden", "no") if is_forbidden else ApiError(status, "InternalError", "broken")

    result = await or_failure(fail())
    assert isinstance(result, ReadFailure)
    assert result.is_forbidden is is_forbidden


async def test_a_version_whose_body_does_not_come_leaves_the_clock() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nDate: Thu, 01 Jan 2026 13:00:01 GMT\r\n\r\n"
    options: dict[str, Any] = {"user_agent": "test", "timeout_seconds": 0.05}
    async with RawServer() as silent, Client(ClusterAccess(silent.url), **options) as client:
        assert (await read_server(client)).ahead_seconds is None
        silent.replies.append(Reply(head, b"{", hang=True))
        server = await read_server(client)
    assert server.ahead_seconds is not None
    assert server.failure == ReadFailure(f"no response from {silent.url} within 0.05 s", is_forbidden=False)
