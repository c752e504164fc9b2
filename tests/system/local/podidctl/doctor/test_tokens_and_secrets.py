"""NMI's recent refusals by their Events, Secrets and NMI's right to read them, and client ids that differ on Azure."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from mic.azure.identities import Attached, HostIdentities
from nmi.tokens.secrets import CredentialError
from podidctl.diagnosis import secrets
from podidctl.diagnosis.input import ReadFailure
from podidctl.diagnosis.recent_refusals import RecentRefusal
from podidctl.diagnosis.secrets import NOT_READ
from podidctl.doctor import gather, token_reader
from podidctl.doctor.client_ids import check_client_ids, used_hosts
from podidctl.doctor.schema import Finding, Level
from podidctl.doctor.secrets import namespaces_of
from podidctl.doctor.state import RefusedPod, SecretAccess
from podidctl.doctor.token_reader import CHECKED_MAX, refused_pods
from podidentity.azure.errors import AzureError
from podidentity.kube import access
from podidentity.kube.client import Client
from podidentity.resources import AzureIdentity, SecretReference
from podidentity_sandbox.kubeapi.server import Recorded
from tests.support.mic.emulated_cloud import IDENTITIES, EmulatedCloud
from tests.support.mic.preview.run_programs import run
from tests.support.nmi_objects import CLIENT_ID, binding, identity, resource_id
from tests.support.podidctl.doctor_inputs import NOW, daemon, examined, objects, one
from tests.support.podidctl.prediction_inputs import VM
from tests.system.local.podidctl.explain.test_the_real_program import running

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
    line = one(examined(credentials={("ns", "id"): NOT_READ, ("ns", "other"): None}))
    assert (line.check, line.level) == ("credentials", Level.UNKNOWN)
    assert "1 more Secret was not checked: ns/id" in line.says


def principal(namespace: str, name: str) -> AzureIdentity:
    made = identity(name, namespace=namespace, type_=1)
    reference = SecretReference(name="s", namespace=namespace)
    spec = msgspec.structs.replace(made.spec, client_password=reference, tenant_id="tenant.example")
    return msgspec.structs.replace(made, spec=spec)


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
    """Anyone with permission to create Events in a namespace can forge them, about pods that do not exist too."""
    running(cloud, "web")
    event(cloud, "web", at="2026-01-01T11:00:00Z", name="old")
    event(cloud, "gone", at="2026-01-01T11:59:00Z", uid_="u")
    event(cloud, "web", at="2026-01-01T11:59:00Z", uid_="of-a-former-pod", name="former")
    event(cloud, "web", at="2026-01-01T11:59:00Z", component="stranger", name="stranger")
    assert await read(cloud) == []
    event(cloud, "web", at="2026-01-01T11:59:00Z")
    cloud.api.store.create("namespaces", {"metadata": {"name": "tenant"}})
    for number in range(CHECKED_MAX + 1):
        event(cloud, f"forged-{number}", at="2099-01-01T00:00:00Z", uid_="u", namespace="tenant")
    assert await read(cloud) == ["default/web"]
    granted = f'{HEAD} outcome="granted" pod="default/web" uid="{uid(cloud)}"'
    assert await read(cloud, granted) == []
    event(cloud, "web", at="2026-01-01T11:59:59Z", name="later")
    assert await read(cloud, granted) == ["default/web"]


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


ACCOUNT = "kube-system/nmi"


def of_type(namespace: str = "ns", secret_namespace: str = "", type_: int = 1) -> AzureIdentity:
    made = identity("sp", namespace=namespace, type_=type_)
    spec = msgspec.structs.replace(made.spec, client_password=SecretReference(name="s", namespace=secret_namespace))
    return msgspec.structs.replace(made, spec=spec)


def diagnose_secrets(*access: SecretAccess, **changes: Any) -> list[Finding]:
    report = examined(secrets=access, **changes)
    return [each for each in report.findings if each.check == "secrets"]


def test_an_unneeded_permission_for_all_secrets_is_reported_with_the_value_that_removes_it() -> None:
    (line,) = diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True))
    assert line.level is Level.WARNING
    assert "NMI's service account kube-system/nmi may get every Secret of the cluster" in line.says
    assert "nmi.servicePrincipals=auto or false" in line.next
    assert diagnose_secrets(SecretAccess(ACCOUNT)) == []


def test_if_an_identity_needs_it_the_sufficient_namespaces_are_named() -> None:
    for type_ in (1, 2):
        with_one = objects(identities=(identity(), of_type(type_=type_)))
        (line,) = diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True, needed=("ns",)), objects=with_one)
        assert line.level is Level.OK
        assert "rbac.secretNamespaces can limit it to ns" in line.says
        (line,) = diagnose_secrets(SecretAccess(ACCOUNT, needed=("ns",)), objects=with_one)
        assert (line.level, line.next) == (Level.OK, "")
    federated = objects(identities=(of_type(type_=3),))
    assert diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True), objects=federated)[0].level is Level.WARNING


def test_a_namespace_without_the_permission_is_a_problem_that_names_namespace_and_value() -> None:
    (line,) = diagnose_secrets(SecretAccess(ACCOUNT, needed=("ns", "shop"), forbidden=("shop",)), objects=objects())
    assert line.level is Level.PROBLEM
    assert line.says.endswith("in shop")
    assert "rbac.secretNamespaces" in line.next
    assert "nmi.servicePrincipals=true" in line.next
    report = examined(secrets=ReadFailure("subjectaccessreviews is forbidden"))
    (line,) = [each for each in report.findings if each.check == "secrets"]
    assert line.level is Level.UNKNOWN


def test_a_secret_is_in_the_identitys_namespace_unless_another_is_named_and_allowed() -> None:
    identities = [of_type("b"), of_type("a", "vault"), identity("user-assigned")]
    assert namespaces_of(identities, cross_namespace=False) == ("a", "b")
    assert namespaces_of(identities, cross_namespace=True) == ("b", "vault")


KEY = resource_id("id").lower()


def on_azure(client_id: str) -> dict[str, HostIdentities | AzureError]:
    (host,) = used_hosts(objects())
    return {host.key: HostIdentities(attached={KEY: Attached(resource_id("id"), client_id)})}


def test_another_client_id_is_a_problem_and_an_unread_host_is_unknown() -> None:
    line = one(examined(azure=on_azure("00000000-0000-0000-0000-0000000000ff")))
    assert (line.check, line.level, line.next) == ("client ids", Level.PROBLEM, "correct AzureIdentity ns/id")
    assert "Azure reports client id" in line.says
    found = list(check_client_ids(objects(), on_azure(CLIENT_ID.upper())))
    assert [each.level for each in found] == [Level.OK]
    assert "1 identity" in found[0].says
    found = list(check_client_ids(objects(), {"/x/vm-1": AzureError("no")}))
    assert Level.UNKNOWN in {each.level for each in found}
    levels = [(each.level, each.says) for each in check_client_ids(objects(), {})]
    assert levels[0] == (Level.UNKNOWN, "1 more VM or scale set was not read")
    assert [each.text for each in used_hosts(objects())] == [VM]
    assert used_hosts(replace(objects(), pods=())) == []
    assert "client ids" not in {each.check for each in examined().findings}
    assert identity().spec.client_id == CLIENT_ID


async def test_the_command_reads_azure_with_a_cloudconfig(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    running(cloud)
    await cloud.mic()
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    await cloud.running[0].stop()
    changed = cloud.api.store.get(IDENTITIES, "demo", "default")
    changed["spec"]["clientID"] = "client-of-another"
    cloud.api.store.replace(IDENTITIES, changed)
    answer = await run(cloud.folder, "podidctl", "doctor", "-o", "json")
    lines = [each for each in answer.document["findings"] if each["check"] == "client ids"]
    assert [each["level"] for each in lines] == ["problem"], answer.out
    assert "'client-of-another'" in lines[0]["says"]
