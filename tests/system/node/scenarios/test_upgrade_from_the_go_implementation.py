"""A release of the Go implementation's chart 4.1.18, `helm upgrade` to this chart, and the way back, on a node.

REFERENCE_NMI and REFERENCE_MIC name the binaries of its programs (tests/system/node/README.md). They then serve the
pods before the upgrade and after the rollback, and make the assignments, the record and the lock.

Without both variables, stand-ins are in their place. They use the ports and the NAT rule of the programs, serve no
token and assign no identity. The test writes the assignments, the record of the type upgrade and the leader's lock.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import go_implementation
from podidentity_sandbox.azure import DEMO_IDENTITY
from podidentity_sandbox.machines import Machine
from tests.support.checkout import ROOT
from tests.support.go_implementation_chart import CLOUD, MIC_FLAGS, NMI_FLAGS, ProgramImages, write_chart
from tests.support.go_implementation_lock import ANNOTATION
from tests.support.go_implementation_objects import LOCK, RECORD, assignment, lock, record
from tests.system.node import client, manifests
from tests.system.node.bed import MIC, MIC_LABELS, NAMESPACE, NMI, RELEASE, Bed
from tests.system.node.manifests import REPOSITORY
from tests.system.node.node_state import read_node_state
from tests.system.node.oci import Image
from tests.system.node.processes import BedError, wait_for
from tests.system.node.programs import IMAGES, compiled
from tests.system.node.scenario import WITH, Scenarios

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CRDS: Final = ROOT / "tests" / "support" / "mic" / "reference" / "crds.yaml"
VARIABLES: Final = (go_implementation.NMI, go_implementation.MIC)
GO_IMAGES: Final = ProgramImages(f"{REPOSITORY}/nmi:go-implementation", f"{REPOSITORY}/mic:go-implementation")
CHAIN: Final = "aad-metadata"
"""NMI's chain in the nat table. reference: pkg/nmi/iptables/iptables.go."""
SERVED_AGAIN_SECONDS: Final = 120.0
"""Time until the Go implementation serves after a rollback: a refused request of its NMI may take 100 s."""
LOCK_NAMESPACE: Final = "default"
"""The default of both MICs, which the charts keep."""
VALUES: Final[Mapping[str, Any]] = {
    "forceNamespaced": "false",
    "installMICException": "true",
    "mic": {"logVerbosity": 0, "replicas": 2},
    "nmi": {"logVerbosity": 0, "setRetryAfterHeader": False, "allowNetworkPluginKubenet": False},
}
"""A file of values for that chart."""


def go_programs() -> tuple[Path, Path] | None:
    """Return NMI and MIC, which both variables name; None without both.

    Raise BedError if only one is set, and ProgramError if one names a file that is not executable.
    """
    nmi, mic = (go_implementation.named_program(variable, os.environ) for variable in VARIABLES)
    if nmi is not None and mic is not None:
        return nmi, mic
    if nmi is not None or mic is not None:
        raise BedError(f"only one of {' and '.join(VARIABLES)} is set; set both, or none")
    return None


def install(bed: Bed, folder: Path, nmi: Path, mic: Path) -> None:
    """Install that chart with these programs, and wait until their pods are Ready. Raise CommandError.

    A program replaces this project's in its image. So the image of NMI has iptables and conntrack, and both trust the
    CA certificates of the image and the emulated Azure.
    """
    for name, program, full_name in (("nmi", nmi, GO_IMAGES.nmi), ("mic", mic, GO_IMAGES.mic)):
        image = Image.read(IMAGES / f"{name}.tar")
        bed.trust_azure(image)
        image.add({name: program.read_bytes()}, mode=0o755)
        image.settings |= {"Entrypoint": [f"/{name}"], "Cmd": []}
        bed.import_image(image, full_name)
    bed.nodes[0].run("install", "-m", "0644", str(bed.files.environment), CLOUD)
    # As helm 3 does.
    bed.kubectl("create", "--field-manager=helm", f"--filename={CRDS}")
    bed.commands.until_established("customresourcedefinitions", "--all")
    bed.helm("install", RELEASE, str(write_chart(folder, release=RELEASE, programs=GO_IMAGES)), "--create-namespace")
    wait_for(lambda: has_chain(bed), 60, "the image of NMI has no iptables that works")


def leave_objects(bed: Bed, machine: Machine) -> None:
    """Write what the Go implementation's MIC leaves on the cluster and on Azure, for the pods of the probers."""
    bed.azure.call(lambda emulator: machine.attach(emulator.demo))
    bed.apply(record(NAMESPACE), lock(LOCK_NAMESPACE))
    Scenarios(bed).apply_probers()
    bed.apply(*(assignment(pod, bed.nodes[0].name, *manifests.demo()) for pod in WITH))
    bed.wait_for_pods(*WITH)


def has_chain(bed: Bed) -> bool:
    """Return whether the Go implementation's chain redirects the pods of the first node.

    This project's chain has the same name and another destination.
    """
    node = bed.nodes[0]
    rules = node.run("iptables", "-t", "nat", "-S")
    return f"-A PREROUTING -j {CHAIN}\n" in rules and f"--to-destination {node.addresses.node}:2579\n" in rules


def flags(bed: Bed, workload: str) -> list[str]:
    """Return the arguments that the stand-in in a pod of *workload* has printed."""
    lines = bed.kubectl("logs", workload, f"--namespace={NAMESPACE}").splitlines()
    return [line.removeprefix("argument ") for line in lines if line.startswith("argument ")]


def assignments(bed: Bed) -> dict[str, Any]:
    """Return uid, specification and status of each AzureAssignedIdentity by name."""
    return {
        assigned["metadata"]["name"]: (assigned["metadata"]["uid"], assigned["spec"], assigned["status"])
        for assigned in bed.assignments()
    }


def check_kept(bed: Bed, before: dict[str, Any], *, with_programs: bool) -> None:
    """Fail unless the assignments are those of *before*, without the programs with the same specification.

    Each program may write the identity and the binding that an assignment embeds again.
    """
    present = assignments(bed)
    assert with_programs or present == before
    assert {name: (uid, status["status"]) for name, (uid, _, status) in present.items()} == {
        name: (uid, "Assigned") for name, (uid, _, _) in before.items()
    }


def record_of(bed: Bed) -> dict[str, str]:
    """Return the record of the rewrite of old field names."""
    output = bed.kubectl("get", "configmap", RECORD, f"--namespace={NAMESPACE}", "--output=json")
    return dict(json.loads(output)["data"])


def holder(bed: Bed) -> str:
    """Return the holder of the Go implementation's lock."""
    endpoints = json.loads(bed.kubectl("get", "endpoints", LOCK, f"--namespace={LOCK_NAMESPACE}", "--output=json"))
    return str(json.loads(endpoints["metadata"]["annotations"][ANNOTATION])["holderIdentity"])


def test_a_release_of_the_go_implementation_is_upgraded_and_rolled_back(tmp_path: Path) -> None:
    named = go_programs()
    stand_in = compiled("go_program_stand_in")
    with Bed() as bed:
        bed.commands = bed.plane.commands("helm3")  # which made the releases of that chart
        node, scenarios = bed.nodes[0], Scenarios(bed)
        machine = bed.azure.machine(node.vm)
        clean = read_node_state(node)
        install(bed, tmp_path, *(named or (stand_in, stand_in)))
        nmi_flags = [flag.replace("$(NODE_NAME)", node.name) for flag in NMI_FLAGS]
        if named is None:
            assert flags(bed, NMI) == nmi_flags
            assert flags(bed, MIC) == list(MIC_FLAGS)
            leave_objects(bed, machine)
        else:
            scenarios.create_probers()
            wait_for(lambda: len(bed.assignments()) == len(WITH), 60, "the Go implementation has assigned no identity")
        before, recorded = assignments(bed), record_of(bed)
        changes, attached = bed.azure.changes(machine), set(machine.identities)

        begin = time.time()
        bed.install(VALUES, command="upgrade")
        assert client.token(bed, WITH[0]).token_of == DEMO_IDENTITY
        scenarios.wait_for_recovery(time.time())
        wait_for(lambda: holder(bed).startswith(f"{RELEASE}-mic"), 60, "no present MIC holds the former lock")
        result = scenarios.evaluate("helm upgrade from the chart 4.1.18", begin)
        assert (result.leaked, result.wrong) == (0, 0), result
        if named is not None:  # a refused connection is no response
            outcomes = [probe.outcome for pod in WITH for probe in scenarios.probes(pod, begin)]
            assert not any(outcome.startswith("http ") for outcome in outcomes), result
        assert not has_chain(bed)

        # docs/migration.md, "Back to the Go implementation".
        bed.install({**VALUES, "nmi": {**VALUES["nmi"], "failClosed": False}}, command="upgrade")
        check_kept(bed, before, with_programs=named is not None)
        assert record_of(bed) == recorded
        assert bed.azure.changes(machine) == changes, "no identity is attached or detached"
        bed.kubectl("scale", MIC, f"--namespace={NAMESPACE}", "--replicas=0")
        selector = f"--selector={MIC_LABELS}"
        bed.kubectl("wait", "--for=delete", "pods", selector, f"--namespace={NAMESPACE}", "--timeout=60s")
        assert holder(bed) == "", "the MIC of the Go implementation need not wait"
        bed.helm("rollback", RELEASE, "1")
        wait_for(lambda: has_chain(bed) and not bed.nmi_pids(), 60, "the former programs do not run")
        if named is None:
            assert flags(bed, NMI) == nmi_flags
        else:
            wait_for(lambda: holder(bed), 60, "the Go implementation does not run again")
            scenarios.wait_for_recovery(time.time(), SERVED_AGAIN_SECONDS)
        own = [line for line in read_node_state(node) - clean if CHAIN not in line]
        assert own == [], "the Go implementation does not know the reject"
        check_kept(bed, before, with_programs=named is not None)
        assert record_of(bed) == recorded
        assert bed.azure.changes(machine) == changes
        assert set(machine.identities) == attached

        bed.install(VALUES, command="upgrade")
        scenarios.wait_for_recovery(time.time())
        check_kept(bed, before, with_programs=named is not None)
        bed.kubectl("delete", "pods", *WITH, "--timeout=60s")
        wait_for(lambda: not assignments(bed), 60, "assignments of deleted pods remain")
        wait_for(lambda: not machine.identities, 60, "MIC has not detached what the Go implementation attached")
        print(f"{result.scenario}: {dict(result.outcomes)}")  # noqa: T201 - shown by pytest -rP
