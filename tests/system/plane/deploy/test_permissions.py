"""The chart's permissions of each program are exactly the calls of the program, according to the real API server.

The calls: mic/app.py (watches), mic/reconciliation/writer.py, mic/startup/type_upgrade.py,
podidentity/kube/{locks,events}.py for MIC;
nmi/app.py (this node), nmi/identity/{cluster_cache,verification_reads,assigned_identity,managed_mode}.py,
nmi/tokens/secrets.py and podidentity/kube/events.py for NMI. test_programs_under_their_roles.py shows that they are
sufficient.
"""

import itertools
import json
import re
import shlex

import pytest

from tests.support.chart_objects import HELMS
from tests.support.testplane import up
from tests.support.waiting import until_sync
from tests.system.plane.deploy.helm_cluster import LIMIT, Cluster, Right
from tools.chart.rendering import CHART, render

pytestmark = pytest.mark.plane

NAMESPACES = (f"rights-{number}" for number in itertools.count())
MIC = "aad-pod-identity-mic"
NMI = "aad-pod-identity-nmi"
GROUP = "aadpodidentity.k8s.io"

ALWAYS: set[Right] = {
    ("pods", "", "list watch"),
    ("nodes", "", "list watch"),
    ("events", "", "create patch"),
    (f"azureassignedidentities.{GROUP}", "", "create delete get list patch update watch"),
}
EVERYWHERE: set[Right] = {
    *ALWAYS,
    (f"azureidentities.{GROUP}", "", "list watch"),
    (f"azureidentitybindings.{GROUP}", "", "list watch"),
    (f"azurepodidentityexceptions.{GROUP}", "", "list"),
}
UPGRADING: set[Right] = {
    *ALWAYS,
    (f"azureidentities.{GROUP}", "", "list update watch"),
    (f"azureidentitybindings.{GROUP}", "", "list update watch"),
    (f"azurepodidentityexceptions.{GROUP}", "", "list update"),
}
ITS_OWN: set[Right] = {("configmaps", "", "create"), ("configmaps", "aad-pod-identity-config", "get update")}


LOCK: set[Right] = {
    ("leases.coordination.k8s.io", "", "create"),
    ("leases.coordination.k8s.io", MIC, "get update"),
    ("endpoints", MIC, "get update"),
}
OF_NMI: set[Right] = {
    ("pods", "", "get list watch"),
    ("nodes", "", "get"),
    ("events", "", "create patch"),
    (f"azurepodidentityexceptions.{GROUP}", "", "list watch"),
}
STANDARD: set[Right] = {*OF_NMI, (f"azureassignedidentities.{GROUP}", "", "list watch")}
MANAGED: set[Right] = {
    *OF_NMI,
    (f"azureidentities.{GROUP}", "", "list watch"),
    (f"azureidentitybindings.{GROUP}", "", "list watch"),
}
SECRETS: set[Right] = {("secrets", "", "get")}


@pytest.fixture
def namespace() -> str:
    return next(NAMESPACES)


@pytest.mark.parametrize("helm", HELMS)
def test_permissions_in_standard_mode(plane: up.Plane, helm: str, namespace: str) -> None:
    cluster = Cluster(plane, helm)
    cluster.kubectl("create", "namespace", namespace)
    record_upgrade(cluster, namespace)
    with cluster.installed(namespace, "--set=nmi.servicePrincipals=false"):
        assert cluster.rights(MIC, of=namespace, within="kube-system") == EVERYWHERE
        assert cluster.rights(MIC, of=namespace, within=namespace) == EVERYWHERE | ITS_OWN
        assert cluster.rights(MIC, of=namespace, within="default") == EVERYWHERE | LOCK
        assert cluster.rights(NMI, of=namespace, within="kube-system") == STANDARD
        assert cluster.rights(NMI, of=namespace, within=namespace) == STANDARD
        assert cluster.rights("default", of=namespace, within=namespace) == set()


def test_managed_mode_has_no_mic_and_nmi_reads_bindings(plane: up.Plane, namespace: str) -> None:
    cluster = Cluster(plane)
    with cluster.installed(namespace, "--set=operationMode=managed"):
        assert cluster.rights(NMI, of=namespace, within="default") == MANAGED
        assert cluster.rights(MIC, of=namespace, within="default") == set()


def until_rights_are(cluster: Cluster, namespace: str, within: str, rights: set[Right], *, account: str = NMI) -> None:
    """Wait until *account* has these *rights*: the authorizer receives changed roles by a watch."""
    until_sync(
        lambda: cluster.rights(account, of=namespace, within=within), f"rights of {account}", holds=rights.__eq__
    )


def test_nmi_may_read_secrets_only_if_an_identity_needs_it_or_the_values_say_so(
    plane: up.Plane, namespace: str
) -> None:
    cluster = Cluster(plane)
    upgrade = ("upgrade", "pi", str(CHART), f"--namespace={namespace}", LIMIT, "--set=crds.upgrade=false")
    with cluster.installed(namespace):
        cluster.kubectl("delete", "azureidentity", "--all", "--all-namespaces")
        create_identity(cluster, namespace, type_=3)
        create_identity(cluster, namespace, type_=0, Type=2)  # as NMI reads it: type 0
        cluster.helm(*upgrade)
        assert cluster.rights(NMI, of=namespace, within="default") == STANDARD
        assert "run `helm upgrade` again" in cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        cluster.helm(*upgrade, "--set=nmi.servicePrincipals=true")
        until_rights_are(cluster, namespace, "default", STANDARD | SECRETS)
        cluster.helm(*upgrade)
        until_rights_are(cluster, namespace, "default", STANDARD)
        create_identity(cluster, namespace, type_=2)
        cluster.helm(*upgrade)
        until_rights_are(cluster, namespace, "default", STANDARD | SECRETS)
        for refusal in ("nmi.servicePrincipals", "rbac.allowAccessToSecrets"):
            cluster.helm(*upgrade, f"--set={refusal}=false")
            until_rights_are(cluster, namespace, "default", STANDARD)
            cluster.helm(*upgrade)
            until_rights_are(cluster, namespace, "default", STANDARD | SECRETS)
        cluster.kubectl("delete", "azureidentity", "--all", f"--namespace={namespace}")


def create_identity(cluster: Cluster, namespace: str, *, type_: int, **spec: object) -> None:
    document = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "AzureIdentity",
        "metadata": {"name": f"of-type-{type_}", "namespace": namespace},
        "spec": {"type": type_, "clientID": "c", "tenantID": "t", **spec},
    }
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(document))


def record_upgrade(cluster: Cluster, namespace: str) -> None:
    record = ("aad-pod-identity-config", "--from-literal=type-upgrade-status=1")
    cluster.kubectl("create", "configmap", *record, f"--namespace={namespace}")


def test_nmi_may_read_secrets_in_the_listed_namespaces_only(plane: up.Plane, namespace: str) -> None:
    cluster = Cluster(plane)
    listed, other = f"{namespace}-shop", f"{namespace}-other"
    for name in (listed, other):
        cluster.kubectl("create", "namespace", name)
    names = f"--set=crds.upgrade=false,rbac.secretNamespaces={{{listed}}}"
    upgrade = ("upgrade", "pi", str(CHART), f"--namespace={namespace}", LIMIT)
    with cluster.installed(namespace, names):
        until_rights_are(cluster, namespace, listed, STANDARD | SECRETS)
        for within in (other, namespace, "kube-system"):
            assert cluster.rights(NMI, of=namespace, within=within) == STANDARD
        cluster.helm(*upgrade, "--set=crds.upgrade=false,nmi.servicePrincipals=true")
        until_rights_are(cluster, namespace, other, STANDARD | SECRETS)
        cluster.helm(*upgrade, names)
        until_rights_are(cluster, namespace, other, STANDARD)
        cluster.helm(*upgrade, names, "--set=rbac.allowAccessToSecrets=false")
        until_rights_are(cluster, namespace, listed, STANDARD)
    until_rights_are(cluster, namespace, listed, set())
    cluster.kubectl("delete", "namespace", listed, other, "--wait=false")


def test_mic_may_rewrite_objects_only_until_their_type_upgrade_is_recorded(plane: up.Plane, namespace: str) -> None:
    cluster = Cluster(plane)
    upgrade = ("upgrade", "pi", str(CHART), f"--namespace={namespace}", LIMIT, "--set=crds.upgrade=false")
    with cluster.installed(namespace):  # without any object
        until_rights_are(cluster, namespace, "default", UPGRADING | LOCK, account=MIC)
        assert "type-upgrade-status" in cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        record_upgrade(cluster, namespace)
        cluster.helm(*upgrade)
        until_rights_are(cluster, namespace, "default", EVERYWHERE | LOCK, account=MIC)
        assert "type-upgrade-status" not in cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        # As docs/migration.md describes for a repeated upgrade.
        remove = '[{"op": "remove", "path": "/data/type-upgrade-status"}]'
        record = ("configmap", "aad-pod-identity-config", f"--namespace={namespace}")
        cluster.kubectl("patch", *record, "--type=json", f"--patch={remove}")
        cluster.helm(*upgrade)
        until_rights_are(cluster, namespace, "default", UPGRADING | LOCK, account=MIC)


def test_mic_may_change_nodes_only_with_a_startup_taint(plane: up.Plane, namespace: str) -> None:
    cluster = Cluster(plane)
    cluster.kubectl("create", "namespace", namespace)
    record_upgrade(cluster, namespace)
    with cluster.installed(namespace, "--set=mic.startupTaint=nmi-not-ready"):
        rights = cluster.rights(MIC, of=namespace, within="kube-system")
        assert rights ^ EVERYWHERE == {("nodes", "", "list watch"), ("nodes", "", "list patch watch")}


def test_role_view_reads_identities_and_role_edit_changes_them(plane: up.Plane, namespace: str) -> None:
    cluster = Cluster(plane)
    kinds = ("azureidentities", "azureidentitybindings", "azurepodidentityexceptions", "azureassignedidentities")
    with cluster.installed(namespace, "--set=rbac.createUserFacingClusterRoles=true"):
        for role in ("view", "edit"):
            cluster.kubectl("create", "serviceaccount", role, f"--namespace={namespace}")
            account = f"--serviceaccount={namespace}:{role}"
            cluster.kubectl("create", "rolebinding", role, f"--clusterrole={role}", account, f"-n={namespace}")
        seen = {(kind, verb) for kind in kinds for verb in ("get", "list", "watch")}
        written = ("create", "delete", "deletecollection", "patch", "update")
        changed = {(kind, verb) for kind in kinds[:3] for verb in written}

        def verbs(role: str) -> set[tuple[str, str]]:
            return {
                (resource.removesuffix(f".{GROUP}"), verb)
                for resource, _, listed in cluster.rights(role, of=namespace, within=namespace)
                for verb in listed.split()
                if resource.endswith(GROUP)
            }

        assert verbs("view") == seen
        assert verbs("edit") == seen | changed


@pytest.mark.parametrize("helm", HELMS)
def test_federated_identities_let_nmi_create_tokens_in_the_listed_namespaces_only(
    plane: up.Plane, helm: str, namespace: str
) -> None:
    """The policy exists before the roles: in this order (docs/federated-identities.md), NMI never runs without it."""
    cluster = Cluster(plane, helm)

    def policies() -> int:
        kinds = "validatingadmissionpolicies,validatingadmissionpolicybindings"
        return cluster.kubectl("get", kinds, "-o=name").count("pi-aad-pod-identity-federated")

    for name in ("rights-open", "rights-named"):
        cluster.kubectl("create", "namespace", name)
    cluster.kubectl("create", "serviceaccount", "web", "-n=rights-named")
    named = "federated.namespaces[0].name=rights-named,federated.namespaces[0].serviceAccounts={web,worker}"
    usual = ("--set=crds.upgrade=false,nmi.servicePrincipals=false",)
    options = (*usual, "--set=federated.enabled=true", f"--set={named},federated.namespaces[1].name=rights-open")
    some = {("serviceaccounts/token", account, "create") for account in ("web", "worker")}
    first = ("--show-only=templates/nmi-federated-policy.yaml", f"--namespace={namespace}", *options)
    policy = cluster.helm("template", "pi", str(CHART), *first)
    cluster.kubectl("apply", "--server-side", "--field-manager=helm", "-f", "-", stdin=policy)
    assert policies() == 2
    with cluster.installed(namespace, *options, "--take-ownership"):
        assert policies() == 2
        notes = cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        assert re.search(r"^  rights-named: web, worker\n  rights-open: all$", notes, re.MULTILINE)
        (tried,) = re.findall(r"^  kubectl (create token .+)$", notes, re.MULTILINE)
        command = (str(up.tool("kubectl")), *shlex.split(tried))
        refused = "ValidatingAdmissionPolicy 'pi-aad-pod-identity-federated'"
        until_sync(lambda: cluster.done(*command).stderr, tried, holds=lambda refusal: refused in refusal)
        until_rights_are(cluster, namespace, "rights-open", STANDARD | {("serviceaccounts/token", "", "create")})
        assert cluster.rights(NMI, of=namespace, within="rights-named") == STANDARD | some
        for within in ("default", namespace):
            assert cluster.rights(NMI, of=namespace, within=within) == STANDARD
        # An upgrade removes the roles of namespaces that are no longer listed.
        upgrade = ("upgrade", "pi", str(CHART), f"--namespace={namespace}", "--reset-values", LIMIT, *usual)
        cluster.helm(*upgrade, "--set=federated.enabled=true", f"--set={named}")
        until_rights_are(cluster, namespace, "rights-open", STANDARD)
        assert cluster.rights(NMI, of=namespace, within="rights-named") == STANDARD | some
        cluster.helm(*upgrade)
        until_rights_are(cluster, namespace, "rights-named", STANDARD)
        assert policies() == 0
    assert policies() == 0
    cluster.kubectl("delete", "--wait=true", "namespace/rights-open", "namespace/rights-named")


@pytest.mark.parametrize(
    "listed", ["{name: a}", "{name: a, serviceAccounts: [b]}", "{name: a}, {name: c, serviceAccounts: [b]}"]
)
def test_the_api_server_accepts_the_policy_for_any_listed_namespaces(plane: up.Plane, listed: str) -> None:
    objects = render(given=f"federated: {{enabled: true, namespaces: [{listed}]}}")
    (policy,) = (manifest for manifest in objects if manifest["kind"] == "ValidatingAdmissionPolicy")
    apply = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    assert "created" in Cluster(plane).kubectl(*apply, stdin=json.dumps(policy))
