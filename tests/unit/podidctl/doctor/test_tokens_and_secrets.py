"""NMI's recent refusals by their Events, Secrets and NMI's right to read them, and client ids that differ on Azure."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from mic.azure.identities import Attached, HostIdentities
from nmi.tokens.secrets import CredentialError
from podidctl.checks.credentials import check_credentials
from podidctl.checks.hosts import check_client_ids
from podidctl.evaluation.needs import CHECKED_MAX, NOT_READ, namespaces_of, used_hosts
from podidctl.facts.model import Facts, ReadFailure, RecentRefusal, SecretAccess
from podidctl.facts.rbac import RBAC_GROUP
from podidctl.reading import daemons as daemons_reader
from podidctl.reading import reviews
from podidctl.reading.daemons import refused_pods
from podidctl.reading.reviews import read_credentials, read_secret_access
from podidctl.report.documents import CheckResult
from podidctl.report.finding import Level
from podidentity.azure.errors import AzureError
from podidentity.kube.errors import TimedOut
from podidentity.resources import AzureIdentity, SecretReference
from tests.support.memory_api import MemoryApi
from tests.support.nmi_objects import CLIENT_ID, binding, identity, resource_id
from tests.support.podidctl.doctor_inputs import NOW, bad, cluster_case, daemon, examined, nmi, objects, one
from tests.support.podidctl.memory_cluster import MemoryCluster
from tests.support.podidctl.prediction_inputs import VM

CAUSE = "check the AzureIdentity's clientID"


def test_pods_with_one_cause_are_one_problem_with_its_next_action() -> None:
    line = one(examined(refused=dict.fromkeys(("ns/b", "ns/a"), RecentRefusal(NOW, CAUSE))))
    assert (line.check, line.level, line.next) == ("tokens", Level.PROBLEM, CAUSE)
    assert "2 pods in the last 16 minutes: ns/a, ns/b" in line.says
    assert one(examined(refused=ReadFailure("not allowed: events"))).level is Level.UNKNOWN


def test_pods_whose_clients_disconnected_are_another_problem_than_refused_ones() -> None:
    refused = {"ns/a": RecentRefusal(NOW, CAUSE), "ns/b": RecentRefusal(NOW, CAUSE, unanswered=True)}
    texts = [finding.says for finding in bad(examined(refused=refused))]
    assert texts == [
        f"NMI refused tokens to 1 pod in the last 16 minutes: ns/a: {CAUSE}",
        f"clients of 1 pod left before NMI's response in the last 16 minutes: ns/b: {CAUSE}",
    ]


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


REFUSED = (
    "put a new client secret into it: Secret ns/s holds nothing that is valid for this application: AADSTS7000222: x"
)


@pytest.mark.parametrize(
    ("changes", "pod_name", "usable"),
    [
        ({}, "ns/web", 0),
        ({"identity": "ns/sp"}, "ns/web", 0),
        ({"text": REFUSED.replace("ns/s ", "ns/other ")}, "ns/web", 1),
        ({"text": REFUSED.replace("AADSTS7000222", "AADSTS90002")}, "ns/web", 1),
        ({}, "ns/another", 1),
    ],
    ids=["by-an-event", "by-the-log", "another-secret", "another-cause", "a-pod-without-it"],
)
def test_a_secret_that_entra_id_refused_is_not_usable(changes: dict[str, Any], pod_name: str, usable: int) -> None:
    refusal = replace(RecentRefusal(NOW, REFUSED), **changes)
    there = objects(identities=(principal(),), bindings=(binding(identity_name="sp"),), assigned=())
    case = cluster_case(objects=there, credentials={("ns", "sp"): None}, refused={pod_name: refusal})
    counts = [finding.message.split(" Secret")[0] for finding in check_credentials(case)]
    assert counts == ["1"] * usable


def principal(namespace: str = "ns", name: str = "sp", secret_namespace: str = "", type_: int = 1) -> AzureIdentity:
    reference = SecretReference(name="s", namespace=secret_namespace)
    return identity(name, namespace=namespace, type_=type_, client_password=reference, tenant_id="tenant.example")


async def test_secrets_that_pods_need_are_read_first_and_then_those_of_each_namespace(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "CHECKED_MAX", 3)
    there = (
        *(principal("aaa", f"a{number}") for number in range(4)),
        principal("bbb", "b"),
        principal("ccc", "needed"),
    )
    bound = objects(identities=there, bindings=(binding(identity_name="needed", namespace="ccc"),))
    checks = await read_credentials(cluster.client, bound)
    assert isinstance(checks, dict)
    read = [key for key, check in checks.items() if check != NOT_READ]
    assert sorted(read) == [("aaa", "a0"), ("bbb", "b"), ("ccc", "needed")]
    assert len(checks) == len(there)


@pytest.fixture
def uid(cluster: MemoryCluster) -> str:
    """The uid of the running pod default/web."""
    cluster.pod("web", "n0")
    return str(cluster.api.store.get("pods", "web", "default")["metadata"]["uid"])


def event(cluster: MemoryCluster, uid: str, name: str, at: str, **changes: Any) -> None:
    """An Event of NMI about a pod of this uid; *changes*: the pod's name and namespace, and the component."""
    usual = {"pod": "web", "namespace": "default", "component": "aad-pod-identity-nmi"} | changes
    document: dict[str, Any] = {
        "metadata": {"name": name, "namespace": usual["namespace"]},
        "involvedObject": {"kind": "Pod", "namespace": usual["namespace"], "name": usual["pod"], "uid": uid},
        "reason": "TokenRefused",
        "message": CAUSE,
        "lastTimestamp": at,
        "source": {"component": usual["component"]},
    }
    cluster.api.store.create("events", document)


async def test_many_events_of_one_namespace_are_not_all_kept(
    cluster: MemoryCluster, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons_reader, "REFUSALS_MAX", 3)
    for number in range(20):
        event(cluster, uid, f"e{number}", f"2026-01-01T11:59:{number:02}Z")
    kept = await daemons_reader._recent_events(cluster.client, "TokenRefused", NOW)
    (events,) = kept.values()
    assert [event.at for event in events] == [f"2026-01-01T11:59:{number}Z" for number in (19, 18, 17)]


async def test_events_of_existing_pods_count_until_a_grant(cluster: MemoryCluster, uid: str) -> None:
    """Anyone with permission to create Events in a namespace can forge them, about pods that do not exist too."""
    log = [b""]

    async def read_log(*_: Any) -> AsyncIterator[bytes]:
        yield log[0]

    async def read() -> list[str]:
        return list(await refused_pods(cluster.client, Facts(now=NOW, nmi=(daemon("nmi", "nmi-1", node="n0"),))))

    cluster.api.read_with(read_log)
    meta = {"name": "nmi-1", "namespace": "kube-system"}
    cluster.api.store.create("pods", {"metadata": meta, "spec": {"containers": [{"name": "nmi", "image": "i"}]}})
    event(cluster, uid, "old", "2026-01-01T11:00:00Z")
    event(cluster, "u", "gone", "2026-01-01T11:59:00Z", pod="gone")
    event(cluster, "of-a-former-pod", "former", "2026-01-01T11:59:00Z")
    event(cluster, uid, "stranger", "2026-01-01T11:59:00Z", component="stranger")
    assert await read() == []
    event(cluster, uid, "own", "2026-01-01T11:59:00Z")
    cluster.api.store.create("namespaces", {"metadata": {"name": "tenant"}})
    for number in range(CHECKED_MAX + 1):
        event(cluster, "u", f"e{number}", "2099-01-01T00:00:00Z", pod=f"forged-{number}", namespace="tenant")
    assert await read() == ["default/web"]
    head = 'I0101 11:59:30.000000 nmi.server.decisions] token granted resource="r"'
    log[0] = f'{head} outcome="granted" pod="default/web" uid="{uid}"'.encode()
    assert await read() == []
    event(cluster, uid, "later", "2026-01-01T11:59:59Z")
    assert await read() == ["default/web"]
    assert {request.method for request in cluster.api.requests} == {"GET"}


async def test_a_node_whose_log_is_late_hides_no_events(
    cluster: MemoryCluster, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(*_: object) -> str:
        raise TimedOut("https://api", 10)

    monkeypatch.setattr(daemons_reader, "read_log", late)
    event(cluster, uid, "own", "2026-01-01T11:59:00Z")
    facts = Facts(now=NOW, nmi=(daemon("nmi", "nmi-1", node="n0"),))
    assert list(await refused_pods(cluster.client, facts)) == ["default/web"]


async def test_nmis_permission_to_get_secrets_is_reviewed_in_each_needed_namespace_or_once() -> None:
    api = MemoryApi(rbac=True)
    nmi_account = {"kind": "ServiceAccount", "name": "default", "namespace": "kube-system"}
    rules = [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]

    def grant(kind: str, namespace: str = "") -> None:
        meta = {"name": "nmi"} | ({"namespace": namespace} if namespace else {})
        reference = {"apiGroup": RBAC_GROUP, "kind": kind, "name": "nmi"}
        api.store.create(f"{kind.lower()}s.{RBAC_GROUP}", {"metadata": meta, "rules": rules})
        binding = {"metadata": meta, "subjects": [nmi_account], "roleRef": reference}
        api.store.create(f"{kind.lower()}bindings.{RBAC_GROUP}", binding)

    for namespace in ("shop", "reports"):
        api.store.create("namespaces", {"metadata": {"name": namespace}})
    facts = objects(nmi=(nmi(),), identities=(principal("shop"), principal("reports"), identity()))
    usual = SecretAccess("kube-system/default", needed=("reports", "shop"))
    async with api.client("podidctl/test") as client:
        (access,) = await read_secret_access(client, facts)
        assert replace(access, forbidden=tuple(sorted(access.forbidden))) == replace(usual, forbidden=usual.needed)
        grant("Role", "shop")
        assert await read_secret_access(client, facts) == (replace(usual, forbidden=("reports",)),)
        grant("ClusterRole")
        assert await read_secret_access(client, facts) == (replace(usual, everywhere=True),)


ACCOUNT = "kube-system/nmi"


def diagnose_secrets(*access: SecretAccess, **changes: Any) -> list[CheckResult]:
    report = examined(secrets=access, **changes)
    return [finding for finding in report.findings if finding.check == "secrets"]


def test_an_unneeded_permission_for_all_secrets_is_reported_with_the_value_that_removes_it() -> None:
    (line,) = diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True))
    assert line.level is Level.WARNING
    assert "NMI's service account kube-system/nmi may get every Secret of the cluster" in line.says
    assert "nmi.servicePrincipals=auto or false" in line.next
    assert diagnose_secrets(SecretAccess(ACCOUNT)) == []


def test_if_an_identity_needs_it_the_sufficient_namespaces_are_named() -> None:
    for type_ in (1, 2):
        with_one = objects(identities=(identity(), principal(type_=type_)))
        (line,) = diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True, needed=("ns",)), objects=with_one)
        assert line.level is Level.OK
        assert "rbac.secretNamespaces can limit it to ns" in line.says
        (line,) = diagnose_secrets(SecretAccess(ACCOUNT, needed=("ns",)), objects=with_one)
        assert (line.level, line.next) == (Level.OK, "")
    federated = objects(identities=(principal(type_=3),))
    assert diagnose_secrets(SecretAccess(ACCOUNT, everywhere=True), objects=federated)[0].level is Level.WARNING


def test_a_namespace_without_the_permission_is_a_problem_that_names_namespace_and_value() -> None:
    (line,) = diagnose_secrets(SecretAccess(ACCOUNT, needed=("ns", "shop"), forbidden=("shop",)), objects=objects())
    assert line.level is Level.PROBLEM
    assert line.says.endswith("in shop")
    assert "rbac.secretNamespaces" in line.next
    assert "nmi.servicePrincipals=true" in line.next
    report = examined(secrets=ReadFailure("subjectaccessreviews is forbidden"))
    (line,) = [finding for finding in report.findings if finding.check == "secrets"]
    assert line.level is Level.UNKNOWN


def test_a_secret_is_in_the_identitys_namespace_unless_another_is_named_and_allowed() -> None:
    identities = [principal("b"), principal("a", secret_namespace="vault"), identity("user-assigned")]
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
    findings = list(check_client_ids(cluster_case(azure=on_azure(CLIENT_ID.upper()))))
    assert [finding.level for finding in findings] == [Level.OK]
    assert "1 identity" in findings[0].message
    findings = list(check_client_ids(cluster_case(azure={"/x/vm-1": AzureError("no")})))
    assert Level.UNKNOWN in {finding.level for finding in findings}
    levels = [(finding.level, finding.message) for finding in check_client_ids(cluster_case(azure={}))]
    assert levels[0] == (Level.UNKNOWN, "1 more VM or scale set was not read")
    assert [host.text for host in used_hosts(objects())] == [VM]
    assert used_hosts(replace(objects(), pods=())) == []
    assert "client ids" not in {finding.check for finding in examined().findings}
    assert identity().spec.client_id == CLIENT_ID
