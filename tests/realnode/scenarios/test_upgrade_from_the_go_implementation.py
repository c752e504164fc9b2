"""A release of the Go implementation's chart 4.1.18, `helm upgrade` to this chart, and the way back, on a node.

REFERENCE_NMI and REFERENCE_MIC name the binaries of its programs (tests/realnode/README.md). They then serve the pods
before the upgrade and after the rollback, and make the assignments, the record, the lock and the rule.

Without both variables the programs are not part of the test. The node and the cluster are as that chart and its
programs leave them: definitions, assignments, the record of the type upgrade, the leader's lock, and the rule of NMI.
The test bed's pause program is in the programs' place, so that none answers a pod's request before the upgrade and
after the rollback.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from podidentity_sandbox.azure import DEMO_CLIENT_ID, DEMO_IDENTITY, identity_id
from tests.contract.go_implementation_lock import ANNOTATION
from tests.deploy.go_implementation_chart import write_chart
from tests.realnode import client, manifests
from tests.realnode.bed import NAMESPACE, RELEASE, Bed
from tests.realnode.configuration import PAUSE_IMAGE
from tests.realnode.go_programs import GoPrograms, go_programs
from tests.realnode.node import Node
from tests.realnode.node_state import read_node_state
from tests.realnode.options import Options
from tests.realnode.processes import wait_for
from tests.realnode.scenario import Scenarios
from tests.realnode.scenarios.go_installation import CHAIN, WHERE, create_definitions, has_chain, install_programs

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SECONDS_AFTER: Final = 20.0
"""Time after the upgrade in which MIC must not detach the identity."""
FIRST_TOKEN_SECONDS: Final = 5.0
SERVED_AGAIN_SECONDS: Final = 120.0
"""Time until the Go implementation serves after a rollback: a refused request of its NMI may take 100 s."""
LOCK: Final = "aad-pod-identity-mic"
LOCK_NAMESPACE: Final = "default"
"""The default of both MICs, which the charts keep."""
RECORD: Final = "aad-pod-identity-config"
PODS: Final = ("with-0", "with-1")
VALUES: Final[Mapping[str, Any]] = {
    "forceNamespaced": "false",
    "installMICException": "true",
    "mic": {"logVerbosity": 0, "replicas": 2},
    "nmi": {"logVerbosity": 0, "setRetryAfterHeader": False, "allowNetworkPluginKubenet": False},
}
"""A file of values for that chart."""


def assignment(pod: str, node: str) -> dict[str, Any]:
    """Return the AzureAssignedIdentity of a prober pod, as the Go implementation's MIC writes it."""
    return {
        "apiVersion": manifests.GROUP,
        "kind": "AzureAssignedIdentity",
        "metadata": {
            "name": f"{pod}-default-{DEMO_IDENTITY}",
            "namespace": "default",
            "labels": {"nodename": node, "podname": pod},
            "finalizers": ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"],
        },
        "spec": {
            "azureIdentityRef": manifests.identity(DEMO_IDENTITY, identity_id(DEMO_IDENTITY), DEMO_CLIENT_ID),
            "azureBindingRef": manifests.binding(DEMO_IDENTITY),
            "pod": pod,
            "podNamespace": "default",
            "nodename": node,
            "replicas": 1,
        },
        "status": {"status": "Assigned", "availableReplicas": 1},
    }


def lock() -> dict[str, Any]:
    """Return the lock of a MIC of the Go implementation that has ended."""
    ended = (datetime.now(UTC) - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {
        "holderIdentity": f"{LOCK}-7d9f-x2x4z",
        "leaseDurationSeconds": 15,
        "acquireTime": ended,
        "renewTime": ended,
        "leaderTransitions": 3,
    }
    metadata = {"name": LOCK, "namespace": LOCK_NAMESPACE, "annotations": {ANNOTATION: json.dumps(record)}}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}


def add_redirect(node: Node) -> None:
    """Add the chain of the Go implementation's NMI. reference: pkg/nmi/iptables/iptables.go."""
    match = ("!", "-s", "127.0.0.1/32", "-d", "169.254.169.254/32", "-p", "tcp", "-m", "tcp", "--dport", "80")
    for rule in (
        ("-N", "aad-metadata"),
        ("-A", "aad-metadata", *match, "-j", "DNAT", "--to-destination", f"{node.addresses.node}:2579"),
        ("-A", "aad-metadata", "-j", "RETURN"),
        ("-I", "PREROUTING", "1", "-j", "aad-metadata"),
    ):
        node.run("iptables", "-t", "nat", *rule)


def install_without_programs(bed: Bed, folder: Path) -> None:
    """Install the chart of the Go implementation, with what its programs leave on the cluster, the node and Azure."""
    node = bed.nodes[0]
    machine = bed.azure.machine(node.vm)
    bed.azure.call(lambda emulator: machine.attach(emulator.demo))
    create_definitions(bed)
    chart = write_chart(folder, release=RELEASE, image=PAUSE_IMAGE)
    bed.commands.helm("install", RELEASE, str(chart), *WHERE, "--create-namespace")
    record = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RECORD, "namespace": NAMESPACE}}
    bed.apply({**record, "data": {"type-upgrade-status": "v1.8.17"}}, lock())
    Scenarios(bed).apply_probers()
    bed.apply(*(assignment(pod, node.name) for pod in PODS))
    bed.kubectl("wait", "--for=condition=Ready", *(f"pod/{each}" for each in PODS), "--timeout=60s")
    add_redirect(node)


def install_with_programs(bed: Bed, folder: Path, programs: GoPrograms) -> None:
    """Install that chart with its programs, and wait until they serve each pod of the probers. Raise BedError."""
    install_programs(bed, folder, programs)
    Scenarios(bed).create_probers()
    wait_for(lambda: set(states(bed)) == {"Assigned"}, 60, "the Go implementation has not assigned the identity")
    assert len(assignments(bed)) == len(PODS)
    assert has_chain(bed)


def states(bed: Bed) -> list[str]:
    """Return the states of all assignments."""
    return [status["status"] for _, _, status in assignments(bed).values()]


def assignments(bed: Bed) -> dict[str, Any]:
    """Return uid, specification and status of each AzureAssignedIdentity by name."""
    found = bed.objects("azureassignedidentities", "--all-namespaces")
    return {each["metadata"]["name"]: (each["metadata"]["uid"], each["spec"], each["status"]) for each in found}


def check_kept(bed: Bed, before: dict[str, Any], programs: GoPrograms | None) -> None:
    """Fail unless the assignments are those of *before*, without *programs* with the same specification.

    Each program may write the identity and the binding that an assignment embeds again.
    """
    present = assignments(bed)
    if programs is None:
        assert present == before
    assert {name: (uid, status["status"]) for name, (uid, _, status) in present.items()} == {
        name: (uid, "Assigned") for name, (uid, _, _) in before.items()
    }


def record_of(bed: Bed) -> dict[str, str]:
    """Return the record of the rewrite of old field names."""
    found = bed.kubectl("get", "configmap", RECORD, f"--namespace={NAMESPACE}", "--output=json")
    return dict(json.loads(found)["data"])


def holder(bed: Bed) -> str:
    """Return the holder of the Go implementation's lock."""
    found = json.loads(bed.kubectl("get", "endpoints", LOCK, f"--namespace={LOCK_NAMESPACE}", "--output=json"))
    return str(json.loads(found["metadata"]["annotations"][ANNOTATION])["holderIdentity"])


def test_a_release_of_the_go_implementation_is_upgraded_and_rolled_back(tmp_path: Path) -> None:
    programs = go_programs()
    with Bed(Options()) as bed:
        bed.commands = bed.plane.commands("helm3")  # which made the releases of that chart
        node, scenarios = bed.nodes[0], Scenarios(bed)
        machine = bed.azure.machine(node.vm)
        clean = read_node_state(node)
        if programs is None:
            install_without_programs(bed, tmp_path)
        else:
            install_with_programs(bed, tmp_path, programs)
        before, record = assignments(bed), record_of(bed)
        changes = bed.azure.record_changes(machine)
        attached = set(machine.identities)

        begin = time.time()
        bed.install(VALUES, command="upgrade")
        asked = time.monotonic()
        response = client.token(bed, PODS[0])
        assert (response.status, response.identity) == (200, DEMO_IDENTITY), response
        assert time.monotonic() - asked < FIRST_TOKEN_SECONDS, "the assignment exists, so that NMI need not wait"
        scenarios.wait_for_recovery(time.time(), 60)
        time.sleep(SECONDS_AFTER)
        result = scenarios.evaluate("helm upgrade from the chart 4.1.18", begin)
        assert (result.leaked, result.wrong) == (0, 0), result
        if programs is not None:
            assert not any(answered_with_an_error(outcome) for outcome in outcomes(scenarios, begin)), result
        check_kept(bed, before, programs)
        assert record_of(bed) == record
        assert changes == [], "no identity is attached or detached"
        wait_for(lambda: holder(bed).startswith(f"{RELEASE}-mic"), 60, "no present MIC holds the former lock")

        # docs/migration.md, "Back to the Go implementation".
        bed.install({**VALUES, "nmi": {**VALUES["nmi"], "failClosed": False}}, command="upgrade")
        mic = f"deployment/{RELEASE}-mic"
        bed.kubectl("scale", mic, f"--namespace={NAMESPACE}", "--replicas=0")
        component = "--selector=app.kubernetes.io/component=mic"
        bed.kubectl("wait", "--for=delete", "pods", component, f"--namespace={NAMESPACE}", "--timeout=60s")
        assert holder(bed) == "", "the MIC of the Go implementation need not wait"
        bed.commands.helm("rollback", RELEASE, "1", *WHERE)
        wait_for(lambda: not bed.nmi_pids(), 60, "NMI has not ended")
        if programs is not None:
            wait_for(lambda: has_chain(bed) and bool(holder(bed)), 60, "the Go implementation does not run again")
            scenarios.wait_for_recovery(time.time(), SERVED_AGAIN_SECONDS)
        left = read_node_state(node).left_since(clean)
        own = [each for each in left if CHAIN not in each]
        assert own == [], "the Go implementation does not know the reject"
        assert programs is not None or left == []
        check_kept(bed, before, programs)
        assert record_of(bed) == record
        assert changes == []
        assert set(machine.identities) == attached

        begin = time.time()
        bed.install(VALUES, command="upgrade")
        scenarios.wait_for_recovery(time.time(), 60)
        check_kept(bed, before, programs)
        for pod in PODS:
            bed.kubectl("delete", "pod", pod, "--timeout=60s")
        wait_for(lambda: not assignments(bed), 60, "assignments of deleted pods remain")
        wait_for(lambda: not machine.identities, 60, "MIC has not detached what the Go implementation attached")
        print(f"{result.scenario}: {dict(result.outcomes)}")  # noqa: T201 - shown by pytest -rP


def outcomes(scenarios: Scenarios, since: float) -> list[str]:
    """Return the outcomes of the requests of the pods with an identity."""
    return [each.outcome for pod in PODS for each in scenarios.probes(pod, since)]


def answered_with_an_error(outcome: str) -> bool:
    """Return whether an NMI or IMDS answered with an error. A refused connection is none."""
    return outcome.startswith("http ")
