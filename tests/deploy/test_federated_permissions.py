"""helm installs and removes the objects with which NMI may create tokens in the listed namespaces only.

test_token_policy.py has the real API server's decisions by them.
"""

import itertools
import json
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.deploy.helm_cluster import LIMIT, Cluster
from tests.deploy.helms import HELMS
from tests.support.waiting import until_sync
from tests.testplane import up
from tools.chart.rendering import CHART, render

pytestmark = [pytest.mark.plane, pytest.mark.timeout(240)]



NAMESPACES = (f"rights-federated-{number}" for number in itertools.count())


@pytest.fixture
def namespace() -> str:
    return next(NAMESPACES)


@pytest.fixture(params=HELMS)
def cluster(plane: up.Plane, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with two namespaces for the list."""
    made = Cluster(plane, request.param)
    for name in ("rights-open", "rights-named"):
        made.kubectl("create", "namespace", name)
    made.kubectl("create", "serviceaccount", "web", "-n=rights-named")
    yield made
    made.kubectl("delete", "--wait=true", "namespace/rights-open", "namespace/rights-named")


ON = "--set=federated.enabled=true"
NAMED = "federated.namespaces[0].name=rights-named,federated.namespaces[0].serviceAccounts={web,worker}"
BOTH = f"--set={NAMED},federated.namespaces[1].name=rights-open"


def policies(cluster: Cluster) -> str:
    return cluster.kubectl("get", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-o=name")


def test_the_request_in_the_chart_notes_is_refused_by_the_policy(cluster: Cluster, namespace: str) -> None:
    with cluster.installed(namespace, ON, BOTH):
        notes = cluster.helm("get", "notes", "pi", f"--namespace={namespace}")
        assert re.search(r"^  rights-named: web, worker\n  rights-open: all$", notes, re.MULTILINE)
        (tried,) = re.findall(r"^  kubectl (create token .+)$", notes, re.MULTILINE)
        command = (str(up.tool("kubectl")), *shlex.split(tried))
        policy = "ValidatingAdmissionPolicy 'pi-aad-pod-identity-federated'"
        until_sync(lambda: cluster.done(*command).stderr, tried, holds=lambda refusal: policy in refusal)


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
