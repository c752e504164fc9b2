"""With federated identities NMI may create tokens in the listed namespaces only, according to the real API server. helm
installs, changes and removes all objects for this.
"""

import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.deploy.helm_cluster import LIMIT, Cluster
from tests.deploy.helms import HELMS
from tests.deploy.test_permissions import NMI, STANDARD
from tests.support.waiting import until_sync
from tests.testplane import up
from tools.chart.rendering import CHART, render

pytestmark = [pytest.mark.plane, pytest.mark.timeout(240)]

ALL = ("serviceaccounts/token", "", "create")
SOME = {("serviceaccounts/token", name, "create") for name in ("web", "worker")}


NAMESPACES = (f"rights-federated-{number}" for number in itertools.count())


@pytest.fixture
def namespace() -> str:
    return next(NAMESPACES)


@pytest.fixture(params=HELMS)
def cluster(plane: up.Plane, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with two namespaces for the list, and one outside it."""
    made = Cluster(plane, request.param)
    namespaces = [f"rights-{name}" for name in ("open", "named", "other")]
    for name in namespaces:
        made.kubectl("create", "namespace", name)
    made.kubectl("create", "serviceaccount", "web", "-n=rights-named")
    yield made
    made.kubectl("delete", "--wait=true", *(f"namespace/{name}" for name in namespaces))


NO_SECRETS = "--set=nmi.servicePrincipals=false"
ON = "--set=federated.enabled=true"
NAMED = "federated.namespaces[0].name=rights-named,federated.namespaces[0].serviceAccounts={web,worker}"
BOTH = f"--set={NAMED},federated.namespaces[1].name=rights-open"


def policies(cluster: Cluster) -> str:
    return cluster.kubectl("get", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-o=name")


def refused(cluster: Cluster, command: str) -> str:
    """Return the error of a kubectl command that must fail."""
    words = [f"--kubeconfig={cluster.plane.kubeconfig}", *shlex.split(command)[1:]]
    done = subprocess.run([str(up.tool("kubectl")), *words], capture_output=True, text=True, timeout=60, check=False)
    return done.stderr


def test_nmi_may_create_tokens_only_in_the_listed_namespaces(cluster: Cluster, namespace: str) -> None:
    with cluster.installed(namespace, NO_SECRETS, ON, BOTH):
        assert cluster.rights(NMI, of=namespace, within="rights-open") == STANDARD | {ALL}
        assert cluster.rights(NMI, of=namespace, within="rights-named") == STANDARD | SOME
        for within in ("rights-other", "default", namespace):
            assert cluster.rights(NMI, of=namespace, within=within) == STANDARD


def test_the_request_in_the_chart_notes_is_refused_by_the_policy(cluster: Cluster, namespace: str) -> None:
    with cluster.installed(namespace, ON, BOTH):
        notes = cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        assert re.search(r"^  rights-named: web, worker\n  rights-open: all$", notes, re.MULTILINE)
        (tried,) = re.findall(r"^  (kubectl create token .+)$", notes, re.MULTILINE)
        policy = "ValidatingAdmissionPolicy 'pi-aad-pod-identity-federated'"
        until_sync(lambda: policy in refused(cluster, tried), tried)


def test_an_upgrade_removes_roles_of_namespaces_that_are_no_longer_listed(cluster: Cluster, namespace: str) -> None:
    upgrade = (
        "upgrade",
        "pi",
        str(CHART),
        f"--namespace={namespace}",
        "--reset-values",
        NO_SECRETS,
        "--no-hooks",
        LIMIT,
    )
    with cluster.installed(namespace, NO_SECRETS, ON, BOTH):
        assert policies(cluster).count("pi-aad-pod-identity-federated") == 2
        cluster.helm(*upgrade, ON, f"--set={NAMED}")
        until_sync(
            lambda: cluster.rights(NMI, of=namespace, within="rights-open") == STANDARD, "no right where unlisted"
        )
        assert cluster.rights(NMI, of=namespace, within="rights-named") == STANDARD | SOME
        cluster.helm(*upgrade)
        until_sync(
            lambda: cluster.rights(NMI, of=namespace, within="rights-named") == STANDARD, "no right when switched off"
        )
        assert policies(cluster) == ""


def test_the_policy_can_exist_before_the_roles(cluster: Cluster, namespace: str) -> None:
    """The order in docs/security.md, with which NMI never runs without the policy."""
    first = ("--show-only=templates/nmi-federated-policy.yaml", f"--namespace={namespace}", ON, BOTH)
    policy = cluster.helm("template", "pi", str(CHART), *first)
    cluster.kubectl("apply", "--server-side", "--field-manager=helm", "-f", "-", stdin=policy)
    assert policies(cluster).count("pi-aad-pod-identity-federated") == 2
    with cluster.installed(namespace, ON, BOTH, "--take-ownership"):
        assert policies(cluster).count("pi-aad-pod-identity-federated") == 2
    assert policies(cluster) == ""


@pytest.mark.parametrize(
    "listed", ["{name: a}", "{name: a, serviceAccounts: [b]}", "{name: a}, {name: c, serviceAccounts: [b]}"]
)
def test_the_api_server_accepts_the_policy_for_any_listed_namespaces(plane: up.Plane, listed: str) -> None:
    objects = render(given=f"federated: {{enabled: true, namespaces: [{listed}]}}")
    (policy,) = (each for each in objects if each["kind"] == "ValidatingAdmissionPolicy")
    apply = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
    assert "created" in Cluster(plane).kubectl(*apply, stdin=json.dumps(policy))


def test_a_missing_namespace_is_named(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(AssertionError, match='namespaces "rights-missing" not found'):
        cluster.install(namespace, ON, "--set=federated.namespaces[0].name=rights-missing")
    cluster.helm("uninstall", "pi", f"--namespace={namespace}", "--no-hooks", LIMIT)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    assert policies(cluster) == ""
