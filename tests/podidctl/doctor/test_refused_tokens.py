"""The doctor reports NMI's recent refusals by their Events, and missing Secrets."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis import secrets
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.recent_refusals import RecentRefusal
from podidctl.diagnosis.secrets import NOT_READ
from podidctl.doctor import gather, token_reader
from podidctl.doctor.schema import Level
from podidctl.doctor.state import RefusedPod
from podidctl.doctor.token_reader import CHECKED_MAX, refused_pods
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, SecretReference
from podidentity_sandbox.kubeapi.server import Recorded
from tests.mic.emulated_cloud import EmulatedCloud
from tests.podidctl.doctor_inputs import NOW, daemon, examined, objects, one
from tests.podidctl.explain.test_the_real_program import running
from tests.support.nmi_objects import binding, identity

CAUSE = "check the AzureIdentity's clientID"


def refused(pod: str, text: str = CAUSE) -> RefusedPod:
    return RefusedPod(pod, RecentRefusal(NOW, text))


def test_pods_with_one_cause_are_one_problem_with_its_next_action() -> None:
    line = one(examined(refused=(refused("ns/b"), refused("ns/a"))))
    assert (line.check, line.level, line.next) == ("tokens", Level.PROBLEM, CAUSE)
    assert "2 pods in the last 16 minutes: ns/a, ns/b" in line.says
    assert one(examined(refused=ReadFailure("not allowed: events"))).level is Level.UNKNOWN


def test_a_missing_secret_is_a_problem_if_a_pod_needs_it() -> None:
    missing = CredentialError("Secret ns/s does not exist: create it", code="secret_missing")
    line = one(examined(credentials={("ns", "id"): missing}))
    assert (line.check, line.level, line.next) == ("credentials", Level.PROBLEM, "create it")
    assert "AzureIdentity ns/id" in line.says
    unneeded = {("ns", "spare"): missing}
    assert one(examined(credentials=unneeded, objects=objects(bindings=(binding(),)))).level is Level.WARNING
    unread = {("ns", "id"): ReadFailure("you may not get Secret ns/s")}
    assert one(examined(credentials=unread)).level is Level.UNKNOWN


def principal(namespace: str, name: str) -> AzureIdentity:
    made = identity(name, namespace=namespace, type_=1)
    reference = SecretReference(name="s", namespace=namespace)
    spec = msgspec.structs.replace(made.spec, client_password=reference, tenant_id="tenant.example")
    return msgspec.structs.replace(made, spec=spec)


def test_secrets_beyond_the_limit_are_unknown() -> None:
    line = one(examined(credentials={("ns", "id"): NOT_READ, ("ns", "other"): None}))
    assert (line.check, line.level) == ("credentials", Level.UNKNOWN)
    assert "1 more Secret was not checked: ns/id" in line.says


async def test_secrets_that_pods_need_are_read_first_and_then_those_of_each_namespace(
    cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "SECRETS_MAX", 3)
    there = (
        *(principal("aaa", f"a{number}") for number in range(4)),
        principal("bbb", "b"),
        principal("ccc", "needed"),
    )
    bound = objects(identities=there, bindings=(binding(identity_name="needed", namespace="ccc"),))
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        checks = await gather._credentials(client, bound, ())
    assert isinstance(checks, dict)
    read = [key for key, check in checks.items() if check != NOT_READ]
    assert sorted(read) == [("aaa", "a0"), ("bbb", "b"), ("ccc", "needed")]
    assert len(checks) == len(there)


async def test_many_events_of_one_namespace_are_not_all_kept(
    cloud: EmulatedCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_reader, "EVENTS_MAX", 3)
    running(cloud, "web")
    for number in range(20):
        event(cloud, "web", at=f"2026-01-01T11:59:{number:02}Z", name=f"e{number}")
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        kept = await token_reader._recent_events(client, NOW)
    assert [each.at for each in kept] == [f"2026-01-01T11:59:{number}Z" for number in (19, 18, 17)]


async def test_events_of_existing_pods_count_until_a_grant(cloud: EmulatedCloud) -> None:
    running(cloud, "web")
    event(cloud, "web", at="2026-01-01T11:59:00Z")
    assert await read(cloud) == ["default/web"]
    assert await read(cloud, log=f'{HEAD} outcome="granted" pod="default/web" uid="{uid(cloud)}"') == []
    event(cloud, "web", at="2026-01-01T11:59:59Z", name="later")
    assert await read(cloud, log=f'{HEAD} outcome="granted" pod="default/web" uid="{uid(cloud)}"') == ["default/web"]


async def test_old_events_and_events_of_former_pods_do_not_count(cloud: EmulatedCloud) -> None:
    running(cloud, "web")
    event(cloud, "web", at="2026-01-01T11:00:00Z")
    event(cloud, "gone", at="2026-01-01T11:59:00Z", uid_="u")
    event(cloud, "web", at="2026-01-01T11:59:00Z", uid_="of-a-former-pod", name="former")
    event(cloud, "web", at="2026-01-01T11:59:00Z", component="stranger", name="stranger")
    assert await read(cloud) == []


async def test_events_of_one_namespace_do_not_hide_those_of_others(cloud: EmulatedCloud) -> None:
    """Anyone with permission to create Events in a namespace can forge them, about pods that do not exist too."""
    cloud.api.store.create("namespaces", {"metadata": {"name": "tenant"}})
    running(cloud, "web")
    event(cloud, "web", at="2026-01-01T11:59:00Z")
    for number in range(CHECKED_MAX + 1):
        event(cloud, f"forged-{number}", at="2099-01-01T00:00:00Z", uid_="u", namespace="tenant")
    assert await read(cloud) == ["default/web"]


HEAD = 'I0101 11:59:30.000000 nmi.server.decisions] token granted resource="r"'


def uid(cloud: EmulatedCloud) -> str:
    return str(cloud.api.store.get("pods", "web", "default")["metadata"]["uid"])


def event(
    cloud: EmulatedCloud,
    pod: str,
    *,
    at: str,
    uid_: str = "",
    name: str = "e",
    component: str = "aad-pod-identity-nmi",
    namespace: str = "default",
) -> None:
    about = {"kind": "Pod", "namespace": namespace, "name": pod, "uid": uid_ or uid(cloud)}
    document: dict[str, Any] = {
        "metadata": {"name": f"{pod}.{name}", "namespace": namespace},
        "involvedObject": about,
        "reason": "TokenRefused",
        "message": CAUSE,
        "lastTimestamp": at,
        "source": {"component": component},
    }
    cloud.api.store.create("events", document)


async def read(cloud: EmulatedCloud, log: str = "") -> list[str]:
    def intercept(request: Recorded) -> None:
        assert request.method == "GET"

    cloud.api.intercept = intercept
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    async with Client(await access.find(str(cloud.folder / "kubeconfig"), {}), user_agent="test") as client:
        reading = _WithLog(client, log)
        found = await refused_pods(reading, (daemon("nmi", "nmi-1", node="n0"),), now)  # type: ignore[arg-type]
    return [each.pod for each in found]


class _WithLog:
    """The client, with a log for every pod."""

    def __init__(self, client: Client, log: str) -> None:
        self._client, self._log = client, log
        self.pages, self.get = client.pages, client.get

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        assert (method, path) == ("GET", "/api/v1/namespaces/kube-system/pods/nmi-1/log")
        return self._log.encode()
