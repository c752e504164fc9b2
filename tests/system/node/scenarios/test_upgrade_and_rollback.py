"""`helm upgrade` from an earlier version to this one, and `helm rollback`, while pods send requests all the time.

FORMER names the earlier version (tests/system/node/former.py). The values file is the same for both.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from podidentity.version import VERSION
from tests.system.node import client
from tests.system.node.bed import NAMESPACE, Bed
from tests.system.node.former import Former, former
from tests.system.node.load import Load
from tests.system.node.options import Options
from tests.system.node.processes import wait_for
from tests.system.node.scenario import Scenarios
from tests.system.node.scenarios.applications import SECONDS, Applications

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]
"""The images of the earlier version may have to be built."""

RATE: Final = float(os.environ.get("RATE", "500"))
LEASE: Final = "aad-pod-identity-mic"
RECORD: Final = "configmap/aad-pod-identity-config"


class Pods(Applications):
    """Pods of the namespace default, each with an identity of its own name."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed, "default")
        self.names: list[str] = []

    def create(self, name: str) -> None:
        """Create a pod with its identity and binding. Wait for its first token. Raise BedError."""
        self.names.append(name)
        self.bind(name)
        self.run(name, name, nodeName=self.bed.nodes[0].name)
        self.eventually(name, name)

    def delete(self, name: str) -> None:
        """Delete a pod. Wait until MIC has revoked its assignment and detached its identity. Raise BedError."""
        self.names.remove(name)
        self.kubectl("delete", "pod", name, "--timeout=60s")
        wait_for(lambda: name not in {pod for pod, *_ in assignments(self.bed)}, SECONDS, f"{name} still assigned")
        self.wait_for_detached(name)

    def check(self) -> None:
        """Fail if a pod does not get a token of its identity with its next request."""
        for name in self.names:
            response = client.token(self.bed, name)
            assert (response.status, response.identity) == (200, name), response


Assignments = dict[tuple[str, str], Any]


def assignments(bed: Bed) -> Assignments:
    """Return uid, specification and status of each AzureAssignedIdentity, by pod and name."""
    return {
        (each["spec"]["pod"], each["metadata"]["name"]): (each["metadata"]["uid"], each["spec"], each["status"])
        for each in bed.objects("azureassignedidentities", "--all-namespaces")
    }


def running_images(bed: Bed) -> set[str]:
    """Return the tags of the images of NMI and MIC whose pods are not being deleted."""
    pods = bed.objects("pods", f"--namespace={NAMESPACE}")
    present = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    return {container["image"].rpartition(":")[2] for pod in present for container in pod["spec"]["containers"]}


def leads(bed: Bed) -> None:
    """Wait until a present pod of MIC holds the lease. Raise BedError."""

    def held() -> bool:
        (lease,) = bed.objects("leases", "--namespace=default", f"--field-selector=metadata.name={LEASE}")
        pods = bed.objects("pods", f"--namespace={NAMESPACE}", "--selector=app.kubernetes.io/component=mic")
        names = [each["metadata"]["name"] for each in pods if "deletionTimestamp" not in each["metadata"]]
        holder = str(lease["spec"].get("holderIdentity", ""))
        return any(holder.startswith(name) for name in names)

    wait_for(held, SECONDS, "no present MIC holds the lease")


def record(bed: Bed) -> Mapping[str, str]:
    """Return MIC's record of the rewrite of old field names."""
    name = RECORD.partition("/")[2]
    (found,) = bed.objects("configmaps", f"--namespace={NAMESPACE}", f"--field-selector=metadata.name={name}")
    return dict(found["data"])


def measure(scenarios: Scenarios, load: Load, name: str, action: Callable[[], object]) -> None:
    """Run *action*. Fail if one request of a pod with an identity has another outcome than a token of it.

    The interruption is not checked: it includes pauses of the probers themselves, which a busy machine causes.
    """
    begin = time.time()
    result = scenarios.measure(name, action, load=load)
    print(f"{result.scenario}: {result.interruption_seconds} s; {result.remark} {dict(result.outcomes)}")  # noqa: T201 - shown by pytest -rP
    assert (result.leaked, result.wrong, result.refused, result.failed) == (0, 0, 0, 0), result
    for pod, expected in scenarios.expected.items():
        probes = scenarios.probes(pod, begin)
        assert probes
        assert not expected or {each.outcome for each in probes} == {expected}, pod


@pytest.fixture(scope="module")
def earlier() -> Former:
    return former()


def test_upgrade_and_rollback_fail_no_request_and_lose_no_assignment(earlier: Former) -> None:
    with Bed(Options()) as bed:
        bed.import_images(earlier.images, earlier.tag)
        bed.install(earlier.values(), chart=earlier.chart)
        scenarios, load, pods = Scenarios(bed), Load(bed, RATE), Pods(bed)
        scenarios.create_probers()
        load.start()
        pods.create("of-the-former")
        leads(bed)
        assert running_images(bed) == {earlier.tag}
        machine = bed.azure.machine(bed.nodes[0].vm)
        before, recorded, changes = assignments(bed), record(bed), bed.azure.record_changes(machine)

        measure(scenarios, load, f"helm upgrade from {earlier.name}", lambda: bed.install(command="upgrade"))
        assert running_images(bed) == {VERSION}
        leads(bed)
        assert assignments(bed) == before
        assert record(bed) == recorded
        assert changes == [], "no identity is attached or detached"
        pods.check()
        pods.create("of-the-present")
        pods.create("deleted-later")
        before = assignments(bed)
        changes.clear()

        measure(scenarios, load, f"helm rollback to {earlier.name}", lambda: bed.roll_back(1))
        assert running_images(bed) == {earlier.tag}
        leads(bed)
        assert assignments(bed) == before
        assert record(bed) == recorded
        assert changes == []
        pods.check()
        pods.delete("deleted-later")
        pods.create("after-the-rollback")
        load.stop()
