"""A test bed: one or more real nodes, a real control plane and the sandbox's Azure, in namespaces of one machine."""

import contextlib
import itertools
import json
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import yaml

from podidentity.version import VERSION
from podidentity_sandbox.azure import AzureFiles
from podidentity_sandbox.namespaces import Namespaces, orphaned, sweep
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.system.node import cgroups, machine
from tests.system.node.azure import Azure
from tests.system.node.cgroups import Cgroup
from tests.system.node.control_plane import ControlPlane
from tests.system.node.manifests import LOAD_IMAGE, PAUSE_IMAGE, REPOSITORY
from tests.system.node.node import OUTSIDE, Node
from tests.system.node.oci import Image
from tests.system.node.options import OUTSIDE_ADDRESS, Options
from tests.system.node.processes import BedError, wait_for
from tests.system.node.programs import BUILD, IMAGES, build_images, compiled, find_programs

CHART: Final = ROOT / "deploy" / "charts" / "aad-pod-identity"
TRUST: Final = "etc/ssl/certs/ca-certificates.crt"
"""The trust store in the images."""
NAMESPACE: Final = "identity"
RELEASE: Final = "aad-pod-identity"
NMI: Final = f"daemonset/{RELEASE}-nmi"
MIC: Final = f"deployment/{RELEASE}-mic"
NMI_LABELS: Final = "app.kubernetes.io/component=nmi"
MIC_LABELS: Final = "app.kubernetes.io/component=mic"
READY_SECONDS: Final = 60
INSTALL_SECONDS: Final = 80
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_instances = itertools.count()


class Bed:
    """The test bed. Use it in a `with` block, from the main thread. Everything is removed at the end of the block.

    It prints one line for each step to the standard error.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.folder = Path()
        self.namespaces = Namespaces(f"realnode{next(_instances)}")
        self.azure = Azure(self.namespaces, OUTSIDE)
        self.nodes: list[Node] = []
        self.plane: ControlPlane
        self.commands: Commands
        self.files: AzureFiles
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C does not interrupt the removal
        try:
            self._cleanup.close()
        finally:
            signal.signal(signal.SIGINT, previous)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return the standard output of kubectl. Raise CommandError if it fails."""
        return self.commands.kubectl(*arguments, stdin=stdin)

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that kubectl lists."""
        return list(json.loads(self.kubectl("get", kind, "--output=json", *arguments))["items"])

    def assignments(self) -> list[dict[str, Any]]:
        """Return all AzureAssignedIdentities."""
        return self.objects("azureassignedidentities", "--all-namespaces")

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def wait_for_pods(self, *names: str, namespace: str = "default") -> None:
        """Wait until pods are Ready. Raise CommandError."""
        pods = [f"pod/{name}" for name in names]
        self.kubectl("wait", "--for=condition=Ready", *pods, f"--namespace={namespace}", f"--timeout={READY_SECONDS}s")

    def install(
        self, values: Mapping[str, Any] | None = None, *, command: str = "install", chart: Path = CHART
    ) -> None:
        """Install the chart, or upgrade to it, with *values* over the test bed's, and wait until all pods are Ready.

        *chart* may be that of another version. Raise CommandError.
        """
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(merged(self.values(), values or {})))
        self.helm(command, RELEASE, str(chart), "--create-namespace", f"--values={file}")
        self.wait_for_nmi()

    def uninstall(self) -> None:
        """Uninstall the chart and wait until its pods have ended. Raise CommandError."""
        self.helm("uninstall", RELEASE)
        self.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=60s")

    def helm(self, *arguments: str) -> None:
        """Run a command of helm on the release and wait for its effect. Raise CommandError."""
        self.commands.helm(*arguments, f"--namespace={NAMESPACE}", "--wait", f"--timeout={INSTALL_SECONDS}s")

    def values(self) -> dict[str, Any]:
        """Return the chart's values for this test bed, all others at their defaults."""
        return {
            "image": {"repository": REPOSITORY},
            "caBundle": {"pem": self.files.certificates.read_text()},
            "customCloud": {"environment": json.loads(self.files.environment.read_text())},
        }

    def import_image(self, image: Image, name: str) -> None:
        """Import an image under this name on all nodes, for the pods. Raise BedError."""
        archive = self.folder / "image.tar"
        image.write(archive, name)
        for node in self.nodes:
            node.import_image(archive)
        archive.unlink()

    def roll_out_nmi(self) -> None:
        """Replace NMI on every node by a surge rollout, and wait for its end. Raise CommandError."""
        self.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
        self.wait_for_nmi()

    def wait_for_nmi(self) -> None:
        """Wait until the rollout of NMI is complete on every node. Raise CommandError."""
        self.kubectl("rollout", "status", NMI, f"--namespace={NAMESPACE}", f"--timeout={INSTALL_SECONDS}s")

    def kill_nmi(self) -> None:
        """Kill the oldest NMI of the first node with SIGKILL. Raise BedError if none runs."""
        self.nodes[0].run("kill", "-KILL", str(self.nmi_pid()))

    def nmi_pod(self) -> str:
        """Return the name of NMI's oldest pod on the first node."""
        return str(self.nmi_pods()[0]["metadata"]["name"])

    def nmi_pods(self) -> list[dict[str, Any]]:
        """Return NMI's pods on the first node that are not being deleted, oldest first."""
        return self.present_pods(f"--selector={NMI_LABELS}", f"--field-selector=spec.nodeName={self.nodes[0].name}")

    def present_pods(self, *selectors: str) -> list[dict[str, Any]]:
        """Return the release's pods that are not being deleted, oldest first."""
        pods = self.objects("pods", f"--namespace={NAMESPACE}", *selectors)
        active = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return sorted(active, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def nmi_pid(self) -> int:
        """Return the id of the oldest NMI in the pid namespace of the first node. Raise BedError if none runs."""
        pids = self.nmi_pids()
        if not pids:
            raise BedError("NMI does not run on the node")
        return pids[0]

    def nmi_pids(self) -> list[int]:
        """Return the process ids of NMI in the pid namespace of the first node; two in a handover."""
        done = self.nodes[0].done("pgrep", "--full", "^/opt/podidentity/bin/python3 .*/opt/podidentity/bin/nmi")
        return [int(pid) for pid in done.stdout.split()]

    def wait_for_nodes(self) -> None:
        """Wait until all nodes are Ready. Raise BedError."""
        wait_for(
            lambda: len([node for node in self.objects("nodes") if is_ready(node)]) >= len(self.nodes),
            READY_SECONDS,
            f"nodes not Ready; see the logs in {self.folder}",
        )

    def _start(self) -> None:
        if reasons := machine.reasons():
            raise BedError("\n".join(["this machine cannot run real nodes:", *reasons]))
        remove_orphans()
        build_images()
        BUILD.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"bed-{self.namespaces.full_name('')}", dir=BUILD))
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        programs = find_programs(self.folder / "bin", self.options)
        self._cleanup.callback(self.namespaces.delete_all)
        self.namespaces.create(OUTSIDE)
        self.namespaces.set_sysctl(OUTSIDE, {"net/ipv4/ip_forward": "1"})
        addresses = (METADATA_ADDRESS, OUTSIDE_ADDRESS)
        self.namespaces.inside(OUTSIDE, [f"address add {address}/32 dev lo" for address in addresses])
        self.azure.start()
        self._cleanup.callback(self.azure.stop)
        self.files = self.azure.emulator.write_files(self.folder)
        self.plane = ControlPlane(self.namespaces, OUTSIDE, self.folder / "plane")
        print_step("starting the control plane")
        self.plane.start()
        self._cleanup.callback(self.plane.stop)
        self.commands = self.plane.commands()
        self.azure.trust_cluster(self.plane.folder)
        for number in range(self.options.nodes):
            folder = self.folder / f"node-{number}"
            node = Node(number, self.options, programs, self.namespaces, folder)
            print_step(f"starting {node.name}")
            self._configure(node)
            folder.mkdir()
            self.nodes.append(node)
            self._cleanup.callback(node.remove)
            node.boot()
        self._import_images()
        for node in self.nodes:
            node.start_kubelet()
            if self.options.cilium:
                self._start_cilium(node)
            else:
                node.start_kube_proxy()
        self.wait_for_nodes()
        for node in self.nodes if not self.options.cilium else ():
            node.wait_for_kube_proxy()

    def _configure(self, node: Node) -> None:
        """Create the node's VM, and its files in /etc."""
        node.vm = self.azure.add_node(node.name, node.addresses, self.options.scale_set)
        kubeconfig_of = self.plane.kubeconfig_of
        node.etc = {
            "kubernetes/azure.json": self.files.cloud_config.read_text(),
            "kubernetes/ca.crt": (self.plane.folder / "ca.crt").read_text(),
            "kubernetes/resolv.conf": f"nameserver {OUTSIDE_ADDRESS}\n",
            "kubernetes/kubelet.kubeconfig": kubeconfig_of(f"system:node:{node.name}", "system:nodes"),
            "kubernetes/kube-proxy.kubeconfig": kubeconfig_of("system:kube-proxy"),
            "kubernetes/cilium.kubeconfig": kubeconfig_of("cilium", "system:masters"),
        }

    def _start_cilium(self, node: Node) -> None:
        """Start Cilium's agent. It needs definitions and the node's range, which no controller creates here."""
        assert node.programs.cilium is not None
        for file in node.programs.cilium.definitions:
            self.kubectl("apply", "--server-side", f"--filename={file}")
        wait_for(lambda: self.objects("nodes"), READY_SECONDS, f"no node object; see the logs in {self.folder}")
        pods = node.addresses.pods
        self.kubectl("patch", "node", node.name, "--patch", json.dumps({"spec": {"podCIDR": pods, "podCIDRs": [pods]}}))
        print_step(f"starting Cilium {node.programs.cilium.version} on {node.name}")
        node.start_cilium()

    def _import_images(self) -> None:
        """Import all images under the names that the nodes' pods use.

        NMI and MIC get the emulated Azure from the chart's values. The demo is an application, so its image knows it.
        """
        for name, program, full_name in (("pause", "pause", PAUSE_IMAGE), ("load", "load_client", LOAD_IMAGE)):
            image = Image(_ARCHITECTURES[platform.machine()])
            image.settings["Entrypoint"] = [f"/{name}"]
            image.add({name: compiled(program).read_bytes()}, mode=0o755)
            self.import_image(image, full_name)
        for name in ("nmi", "mic", "demo"):
            image = Image.read(IMAGES / f"{name}.tar")
            if name == "demo":
                self.trust_azure(image)
                image.settings.setdefault("Env", []).append(
                    f"AZURE_RESOURCE_MANAGER_ENDPOINT={self.azure.emulator.arm.url}"
                )
            self.import_image(image, f"{REPOSITORY}/{name}:{VERSION}")

    def trust_azure(self, image: Image) -> None:
        """Add the certificate authority of the emulated Azure to those that an image trusts."""
        image.add({TRUST: image.file(TRUST) + self.files.certificates.read_bytes()})


def is_ready(node_or_pod: Mapping[str, Any]) -> bool:
    """Return whether the object has the condition Ready."""
    conditions = node_or_pod["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return *values* with those of *others* added, as helm merges several files of values."""
    result = dict(values)
    for key, value in others.items():
        ours = result.get(key)
        result[key] = merged(ours, value) if isinstance(ours, Mapping) and isinstance(value, Mapping) else value
    return result


def remove_orphans() -> None:
    """Remove what the test beds of killed processes left: processes, network namespaces, cgroups and files."""
    sweep()
    names = {path.name for path in (*cgroups.ROOT.glob("podid-*"), *cgroups.ROOT.glob("*/podid-*")) if path.is_dir()}
    for name in filter(orphaned, names):
        Cgroup(name).remove()
    for folder in BUILD.glob("bed-*"):
        if orphaned(folder.name.removeprefix("bed-")):
            shutil.rmtree(folder, ignore_errors=True)


def print_step(step: str) -> None:
    """Print a step."""
    print(step, file=sys.stderr, flush=True)  # noqa: T201
