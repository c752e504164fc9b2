"""The first token of a pod on a real node, for identities of type 0 (VM), 1 (secret) and 3 (federated)."""

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY
from tests.system.node import manifests
from tests.system.node.scenario import Scenarios
from tests.system.node.scenarios.applications import Applications


def test_a_pod_gets_the_token_of_its_user_assigned_identity(scenarios: Scenarios) -> None:
    result = scenarios.measure("no event", lambda: None)
    assert result.interruption_seconds == 0
    assert (result.leaked, result.wrong, result.refused, result.failed) == (0, 0, 0, 0)


def test_pods_get_tokens_of_a_service_principal_and_of_a_federated_identity(apps: Applications) -> None:
    bed, namespace = apps.bed, apps.namespace
    principal = bed.azure.call(lambda emulator: emulator.directory.add_principal())
    bed.azure.federate(DEMO_CLIENT_ID, namespace, "default", bed.plane.folder)
    tenant = bed.azure.emulator.directory.tenant_id
    secret = {"name": "principal", "namespace": namespace}
    bed.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": {"clientSecret": principal.secret}},
        manifests.identity(
            *("principal", "", principal.client_id),
            namespace=namespace,
            type=1,
            tenantID=principal.tenant_id,
            clientPassword=secret,
        ),
        manifests.identity("federated", "", DEMO_CLIENT_ID, namespace=namespace, type=3, tenantID=tenant),
        *(manifests.binding(name, namespace=namespace) for name in ("principal", "federated")),
        *(apps.pod(name, name) for name in ("principal", "federated")),
    )
    # helm finds the identities, and permits NMI to read the Secret.
    bed.install({"federated": {"enabled": True, "namespaces": [{"name": namespace}]}}, command="upgrade")
    try:
        apps.wait("principal", "federated")
        apps.eventually("principal", principal.client_id)
        apps.eventually("federated", DEMO_IDENTITY)
    finally:
        bed.install(command="upgrade")
