"""A test bed: one or more real nodes, a real control plane and the sandbox's Azure, in namespaces of one machine."""

import contextlib
import itertools
import json
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from podidentity.version import VERSION
from podidentity_sandbox.azure import AzureFiles
from podidentity_sandbox.namespaces import Namespaces, orphaned, sweep
from podidentity_sandbox.network import METADATA_ADDRESS
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.system.node import machine, oci
from tests.system.node.azure import Azure
from tests.system.node.cgroups import ROOT as CGROUPS
from tests.system.node.cgroups import Cgroup
from tests.system.node.configuration import PAUSE_IMAGE, REPOSITORY, chart_values, kubelet
from tests.system.node.control_plane import ControlPlane
from tests.system.node.manifests import LOAD_IMAGE
from tests.system.node.node import Node
from tests.system.node.options import OUTSIDE_ADDRESS, NodeAddresses, Options
from tests.system.node.processes import BedError, wait_for
from tests.system.node.programs import BUILD, Programs, build_images, find_programs

CHART: Final = ROOT / "deploy" / "charts" / "aad-pod-identity"
TRUST: Final = "etc/ssl/certs/ca-certificates.crt"
"""The trust store in the images."""
OUTSIDE: Final = "outside"
NAMESPACE: Final = "identity"
RELEASE: Final = "aad-pod-identity"
NMI: Final = f"daemonset/{RELEASE}-nmi"
NMI_LABELS: Final = "app.kubernetes.io/component=nmi"
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
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _without_interrupts():
            self._cleanup.close()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return the standard output of kubectl. Raise CommandError if it fails."""
        return self.commands.kubectl(*arguments, stdin=stdin)

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects of a kind that kubectl lists."""
        return list(json.loads(self.kubectl("get", kind, "--output=json", *arguments))["items"])

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(documents))

    def install(
        self, values: Mapping[str, Any] | None = None, *, command: str = "install", chart: Path = CHART
    ) -> None:
        """Install the chart, or upgrade to it, with *values* over the test bed's, and wait until all pods are Ready.

        *chart* may be that of another version. Raise CommandError.
        """
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(merged(self.values(), values or {})))
        where = (f"--namespace={NAMESPACE}", "--create-namespace", f"--values={file}")
        self.commands.helm(command, RELEASE, str(chart), *where, "--wait", f"--timeout={INSTALL_SECONDS}s")
        self.wait_for_nmi()

    def roll_back(self, revision: int) -> None:
        """Roll the release back, and wait until all pods are Ready. Raise CommandError."""
        where = (f"--namespace={NAMESPACE}", "--wait", f"--timeout={INSTALL_SECONDS}s")
        self.commands.helm("rollback", RELEASE, str(revision), *where)
        self.wait_for_nmi()

    def import_images(self, images: Path, tag: str) -> None:
        """Import NMI and MIC of another version on all nodes: *images* is a folder of `tools/local-images`.

        Their names on the nodes have this *tag*. Raise BedError.
        """
        for name in ("nmi", "mic"):
            archive = self.folder / "images" / f"{name}-{tag}.tar"
            oci.add_layer(images / f"{name}.tar", archive, f"{REPOSITORY}/{name}:{tag}", {}, {})
            for node in self.nodes:
                node.import_image(archive)

    def values(self) -> dict[str, Any]:
        """Return the chart's values for this test bed."""
        return chart_values(self.files.certificates.read_text(), json.loads(self.files.environment.read_text()))

    def uninstall(self) -> None:
        """Uninstall the chart and wait until its pods have ended. Raise CommandError."""
        self.commands.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", f"--timeout={INSTALL_SECONDS}s")
        self.kubectl("wait", "--for=delete", "pods", "--all", f"--namespace={NAMESPACE}", "--timeout=60s")

    def wait_for_nmi(self) -> None:
        """Wait until the rollout of NMI is complete on every node. Raise CommandError."""
        self.kubectl("rollout", "status", NMI, f"--namespace={NAMESPACE}", f"--timeout={INSTALL_SECONDS}s")

    def nmi_pod(self) -> str:
        """Return the name of NMI's oldest pod on the first node."""
        return str(self.nmi_pods()[0]["metadata"]["name"])

    def nmi_pods(self) -> list[dict[str, Any]]:
        """Return NMI's pods on the first node that are not being deleted, oldest first."""
        selected = f"--field-selector=spec.nodeName={self.nodes[0].name}"
        found = self.objects("pods", f"--namespace={NAMESPACE}", f"--selector={NMI_LABELS}", selected)
        active = [each for each in found if "deletionTimestamp" not in each["metadata"]]
        return sorted(active, key=lambda each: str(each["metadata"]["creationTimestamp"]))

    def nmi_pid(self) -> int:
        """Return the id of the oldest NMI in the pid namespace of the first node. Raise BedError if none runs."""
        pids = self.nmi_pids()
        if not pids:
            raise BedError("NMI does not run on the node")
        return pids[0]

    def nmi_pids(self) -> list[int]:
        """Return the process ids of NMI in the pid namespace of the first node; two in a handover."""
        done = self.nodes[0].done("pgrep", "--full", "^/opt/podidentity/bin/python3 .*/opt/podidentity/bin/nmi")
        return [int(each) for each in done.stdout.split()]

    def wait_for_nodes(self) -> None:
        """Wait until all nodes are Ready. Raise BedError."""

        def ready() -> bool:
            conditions = (
                condition
                for each in self.objects("nodes")
                for condition in each["status"].get("conditions", ())
                if condition["type"] == "Ready" and condition["status"] == "True"
            )
            return len(list(conditions)) >= len(self.nodes)

        wait_for(ready, READY_SECONDS, f"nodes not Ready; see the logs in {self.folder}")

    def _start(self) -> None:
        if found := machine.reasons():
            raise BedError("\n".join(["this machine cannot run real nodes:", *found]))
        remove_orphans()
        images = build_images()
        BUILD.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"bed-{self.namespaces.full_name('')}", dir=BUILD))
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        programs = find_programs(
            self.folder / "bin", legacy_iptables=self.options.legacy_iptables, with_cilium=bool(self.options.cilium)
        )
        self._cleanup.callback(self.namespaces.delete_all)
        self._make_outside()
        self.azure.start()
        self._cleanup.callback(self.azure.stop)
        self.files = self.azure.write_files(self.folder)
        self.plane = ControlPlane(programs.testplane, self.namespaces, OUTSIDE, self.folder / "plane")
        self._say("starting the control plane")
        self.plane.start()
        self._cleanup.callback(self.plane.stop)
        self.commands = self.plane.commands()
        self.azure.trust_cluster(self.plane.folder)
        archives = self._name_images(images, programs)
        for number in range(self.options.nodes):
            node = Node(
                f"node-{number}",
                NodeAddresses(number),
                self.options,
                programs,
                self.namespaces,
                self.folder / f"node-{number}",
            )
            self._say(f"starting {node.name}")
            self._add(node)
            for archive in archives:
                node.import_image(archive)
            node.start_kubelet()
            if self.options.cilium:
                self._start_cilium(node)
            else:
                node.start_kube_proxy()
        self.wait_for_nodes()
        for node in self.nodes if not self.options.cilium else ():
            node.wait_for_kube_proxy()

    def _make_outside(self) -> None:
        self.namespaces.create(OUTSIDE)
        self.namespaces.set_sysctl(OUTSIDE, {"net/ipv4/ip_forward": "1"})
        addresses = (METADATA_ADDRESS, OUTSIDE_ADDRESS)
        self.namespaces.inside(OUTSIDE, [f"address add {each}/32 dev lo" for each in addresses])

    def _add(self, node: Node) -> None:
        node.vm = self.azure.add_node(node.name, node.addresses.number, scale_set=self.options.scale_set)
        authority = self.plane.authority
        node.etc = {
            "kubernetes/azure.json": self.files.cloud_config.read_text(),
            "kubernetes/ca.crt": (self.plane.folder / "ca.crt").read_text(),
            "kubernetes/resolv.conf": f"nameserver {OUTSIDE_ADDRESS}\n",
            "kubernetes/kubelet.yaml": kubelet(node.addresses.pods, node.vm),
            "kubernetes/kubelet.kubeconfig": authority.kubeconfig(f"system:node:{node.name}", "system:nodes"),
            "kubernetes/kube-proxy.kubeconfig": authority.kubeconfig("system:kube-proxy"),
        }
        if self.options.cilium:
            node.etc["kubernetes/cilium.kubeconfig"] = authority.kubeconfig("cilium", "system:masters")
        node.folder.mkdir()
        self.nodes.append(node)
        self._cleanup.callback(node.remove)
        node.connect(OUTSIDE)
        node.boot()

    def _start_cilium(self, node: Node) -> None:
        """Start Cilium's agent. It needs definitions and the node's range, which no controller creates here."""
        assert node.programs.cilium is not None
        for file in node.programs.cilium.definitions:
            self.kubectl("apply", "--server-side", f"--filename={file}")
        wait_for(lambda: self.objects("nodes"), READY_SECONDS, f"no node object; see the logs in {self.folder}")
        pods = node.addresses.pods
        self.kubectl("patch", "node", node.name, "--patch", json.dumps({"spec": {"podCIDR": pods, "podCIDRs": [pods]}}))
        self._say(f"starting Cilium {node.programs.cilium.version} on {node.name}")
        node.start_cilium()

    def _name_images(self, images: Path, programs: Programs) -> list[Path]:
        """Return archives of the images under the names that the nodes' pods use.

        NMI and MIC get the emulated Azure from the chart's values. The demo is an application, so its image knows it.
        """
        renamed = self.folder / "images"
        renamed.mkdir()
        archives = []
        for name, image, program in (
            ("pause", PAUSE_IMAGE, programs.pause),
            ("load", LOAD_IMAGE, programs.load_client),
        ):
            archives.append(renamed / f"{name}.tar")
            files = {name: program.read_bytes()}
            oci.write_image(archives[-1], image, files, f"/{name}", _ARCHITECTURES[platform.machine()])
        trusted = oci.read_file(images / "demo.tar", TRUST) + self.files.certificates.read_bytes()
        layers: dict[str, tuple[dict[str, bytes], dict[str, str]]] = {
            "nmi": ({}, {}),
            "mic": ({}, {}),
            "demo": ({TRUST: trusted}, {"AZURE_RESOURCE_MANAGER_ENDPOINT": self.azure.emulator.arm.url}),
        }
        for name, (files, environment) in layers.items():
            archive = renamed / f"{name}.tar"
            oci.add_layer(images / f"{name}.tar", archive, f"{REPOSITORY}/{name}:{VERSION}", files, environment)
            archives.append(archive)
        return archives

    def _say(self, step: str) -> None:
        print(step, file=sys.stderr, flush=True)  # noqa: T201


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
    cgroups = {path.name for root in (CGROUPS, *CGROUPS.glob("*")) for path in root.glob("podid-*") if path.is_dir()}
    for name in sorted(filter(orphaned, cgroups)):
        Cgroup(name).remove()
    for folder in BUILD.glob("bed-*"):
        if orphaned(folder.name.removeprefix("bed-")):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C in the block, so that a second one does not interrupt the removal."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
