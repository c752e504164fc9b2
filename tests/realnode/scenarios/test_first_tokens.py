"""The first token of a pod on a real node, for identities of type 0 (VM), 1 (secret) and 3 (federated)."""

from collections.abc import Iterator

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY
from tests.realnode import client, manifests
from tests.realnode.bed import Bed
from tests.realnode.scenario import Scenarios

SLEEP = ["sleep", "3600"]


@pytest.fixture
def namespace(bed: Bed) -> Iterator[str]:
    bed.kubectl("create", "namespace", "types")
    yield "types"
    bed.kubectl("delete", "namespace", "types")


def test_a_pod_gets_the_token_of_its_user_assigned_identity(scenarios: Scenarios) -> None:
    result = scenarios.measure("no event", lambda: None)
    assert result.interruption_seconds == 0
    assert (result.leaked, result.wrong, result.refused, result.failed) == (0, 0, 0, 0)


def test_the_nat_rule_of_the_node_redirects_to_nmi(bed: Bed, scenarios: Scenarios) -> None:
    rules = bed.nodes[0].run("iptables-save", "--table", "nat")
    assert "169.254.169.254" in rules


def test_a_pod_gets_the_token_of_a_service_principal(bed: Bed, namespace: str) -> None:
    principal = bed.azure.call(lambda emulator: emulator.directory.add_principal())
    bed.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "principal", "namespace": namespace},
            "stringData": {"clientSecret": principal.secret},
        },
        manifests.identity(
            "principal",
            "",
            principal.client_id,
            namespace=namespace,
            type=1,
            tenantID=principal.tenant_id,
            clientPassword={"name": "principal", "namespace": namespace},
        ),
        manifests.binding("principal", namespace=namespace),
        manifests.pod("app", SLEEP, labels={"aadpodidbinding": "principal"}, namespace=namespace),
    )
    bed.install(command="upgrade")  # so that helm finds the identity, and permits NMI to read its Secret
    bed.kubectl("wait", "--for=condition=Ready", "pod/app", f"--namespace={namespace}", "--timeout=60s")
    client.eventually(bed, "app", principal.client_id, namespace=namespace)


def test_a_pod_gets_the_token_of_a_federated_identity(bed: Bed, namespace: str) -> None:
    federated = {"federated": {"enabled": True, "namespaces": [{"name": namespace}]}}
    bed.install(federated, command="upgrade")
    bed.azure.federate(DEMO_CLIENT_ID, namespace, "default", bed.plane.folder)
    tenant = bed.azure.emulator.directory.tenant_id
    bed.apply(
        manifests.identity("federated", "", DEMO_CLIENT_ID, namespace=namespace, type=3, tenantID=tenant),
        manifests.binding("federated", namespace=namespace),
        manifests.pod("app", SLEEP, labels={"aadpodidbinding": "federated"}, namespace=namespace),
    )
    bed.kubectl("wait", "--for=condition=Ready", "pod/app", f"--namespace={namespace}", "--timeout=60s")
    client.eventually(bed, "app", DEMO_IDENTITY, namespace=namespace)
    bed.install(command="upgrade")
