"""One real node in namespaces: containerd, kubelet and kube-proxy."""

import contextlib
import ipaddress
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Final

from podidentity_sandbox.namespaces import NamespaceError, Namespaces
from tests.system.node import cgroups
from tests.system.node.cgroups import Cgroup
from tests.system.node.manifests import PAUSE_IMAGE
from tests.system.node.options import POD_RANGE, NodeAddresses, Options
from tests.system.node.processes import BedError, Process, wait_for
from tests.system.node.programs import (
    CILIUM_HEALTH,
    CILIUM_PREPARATION,
    CILIUM_START_SECONDS,
    HERE,
    Programs,
    cilium_flags,
    compiled,
)

OUTSIDE: Final = "outside"
"""The network namespace outside of the nodes."""
SHARED_SYSCTLS: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/unprivileged_bpf_disabled": "1",
    "kernel/timer_migration": "0",
}
"""The kernel settings that the kubelet and Cilium's agent write for the whole machine, with their values.

The node has files in their place, so that these programs find their values and the machine keeps its own.
"""
START_SECONDS: Final = 30
COMMAND_SECONDS: Final = 120
_ENTER: Final = 'procs=$1; shift; for file in $procs; do echo $$ >"$file"; done; exec "$@"'
"""A shell that enters cgroups, then becomes another command: `sh -c _ENTER NAME "FILE FILE" COMMAND...`."""


class Node:
    """A node by its number. Its files are in *folder*; `disk` in it outlives a reboot."""

    def __init__(self, number: int, options: Options, programs: Programs, namespaces: Namespaces, folder: Path) -> None:
        self.name = f"node-{number}"
        self.addresses = NodeAddresses(number)
        self.options = options
        self.programs = programs
        self.folder = folder
        self.vm = ""
        """The resource id of the node's VM."""
        self.etc: dict[str, str] = {}
        """The content of the files below /etc, by their path."""
        self.containerd: Process
        self.kubelet: Process
        self.kube_proxy: Process
        self.cilium: Process
        self._namespaces = namespaces
        self._cgroup = Cgroup(namespaces.full_name(self.name))
        self._cable = f"node{number}"
        self._first: Process | None = None
        self._started: list[Process] = []

    @property
    def log_folder(self) -> Path:
        """The directory /var/log/pods of the node."""
        return self.folder / "disk" / "log" / "pods"

    def boot(self) -> None:
        """Create network namespace and cgroup, and start the first process, with new namespaces for all but the
        network, and containerd. Raise BedError.
        """
        self._connect()
        self._cgroup.create()
        self._write_files()
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--uts", "--ipc", "--cgroup")
        self._first = Process(
            [
                *("sh", "-c", _ENTER, "enter", " ".join(map(str, self._cgroup.entrances))),
                *("nsenter", f"--net=/run/netns/{self._namespaces.full_name(self.name)}", *unshare),
                *("--propagation", "private", "sh", str(HERE / "first_process.sh"), str(self.folder), self.name),
                " ".join(cgroups.CONTROLLERS),
            ],
            self.folder / "first_process.log",
        )
        wait_for(ready.exists, START_SECONDS, f"no first process; see {self._first.log}")
        self.start_containerd()

    def start_containerd(self) -> None:
        """Start containerd and wait until it serves. Raise BedError."""
        self.containerd = self.start("containerd", self.programs.containerd, "-c", "/etc/containerd/config.toml")
        wait_for(lambda: self.done(self.programs.ctr, "version").returncode == 0, START_SECONDS, "no containerd")

    def start_kubelet(self) -> None:
        self.kubelet = self.start(
            "kubelet",
            *(self.programs.testplane, "kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--v=2"),
            *("--kubeconfig=/etc/kubernetes/kubelet.kubeconfig", f"--hostname-override={self.name}"),
            *(f"--node-ip={self.addresses.node}", "--root-dir=/var/lib/kubelet"),
        )

    def start_kube_proxy(self) -> None:
        config = "--config=/etc/kubernetes/kube-proxy.yaml"
        self.kube_proxy = self.start("kube-proxy", self.programs.testplane, "kube-proxy", config, "--v=2")

    def restart_kube_proxy(self) -> None:
        """Restore kube-proxy's rules after a flush, which it would notice an hour later, or not at all with nftables.

        Until then no pod reaches the API server.
        """
        self.kube_proxy.stop()
        self.start_kube_proxy()

    def wait_for_kube_proxy(self) -> None:
        """Wait until kube-proxy has written its tables and chains for both families. Raise BedError."""
        listings = {f"nft list table {family} kube-proxy": "table" for family in ("ip", "ip6")}
        if self.options.proxy == "iptables":
            # The canary is the only chain in mangle, and another task of kube-proxy writes it.
            chains = {"nat": ":KUBE-SERVICES ", "mangle": ":KUBE-PROXY-CANARY "}
            families = ("iptables", "ip6tables")
            listings = {f"{family}-save -t {table}": chain for family in families for table, chain in chains.items()}

        def written() -> bool:
            return all(expected in self.done(*command.split()).stdout for command, expected in listings.items())

        wait_for(written, START_SECONDS, f"no rules of kube-proxy; see {self.folder}/kube-proxy.log")

    def start_cilium(self) -> None:
        """Start Cilium's agent and wait until it is healthy. The node object needs its podCIDR. Raise BedError."""
        assert self.programs.cilium is not None
        assert self.options.cilium
        self.run("sh", "-c", CILIUM_PREPARATION, "prepare", str(self.programs.cilium.kernel_programs))
        flags = cilium_flags(self.options.cilium)
        self.cilium = self.start("cilium", "env", f"K8S_NODE_NAME={self.name}", str(self.programs.cilium.agent), *flags)
        healthy = ("curl", "--silent", "--fail", "--header", "brief: true", CILIUM_HEALTH)
        failure = f"Cilium is not healthy; see {self.cilium.log}"
        wait_for(lambda: self.done(*healthy).returncode == 0, CILIUM_START_SECONDS, failure)

    def start(self, log: str, *command: str) -> Process:
        """Start a program of the node. Its output is appended to the file *log*.log."""
        started = Process(self.command(command), self.folder / f"{log}.log")
        self._started.append(started)
        return started

    def run(self, *command: str) -> str:
        """Return the standard output of a program of the node. Raise BedError if it fails."""
        done = self.done(*command)
        if done.returncode != 0:
            raise BedError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def done(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the node. Return its result, also if it fails."""
        return subprocess.run(
            self.command(command), capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
        )

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs *command* on the node. Raise BedError if the node does not run."""
        if self._first is None:
            raise BedError(f"the node {self.name} does not run")
        return [
            *("sh", "-c", _ENTER, "enter", " ".join(map(str, self._cgroup.later_entrances))),
            *("nsenter", "--target", str(self._first.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"),
            *("env", f"PATH={self.programs.path}", *command),
        ]

    def start_early_units(self) -> None:
        """Run the units of systemd that start before the kubelet, as systemd does at a boot. Raise BedError.

        The node has no systemd. Only units with one ExecStart, which are wanted by the kubelet, are supported.
        """
        wanted = "/etc/systemd/system/kubelet.service.wants"
        for unit in self.done("ls", wanted).stdout.split():
            text = self.run("cat", f"{wanted}/{unit}")
            (command,) = (line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart="))
            self.run("sh", "-c", command)

    def import_image(self, archive: Path) -> None:
        """Import an image for the kubelet's pods. Raise BedError."""
        self.run(self.programs.ctr, "--namespace=k8s.io", "images", "import", str(archive))

    def shut_down(self) -> None:
        """Kill all processes, and remove cgroup and network namespace. The disk stays: `boot` is possible again."""
        if self._first is not None:
            self._first.stop(signal.SIGKILL)  # by that the kernel kills all processes of its pid namespace
            self._first = None
        while self._started:
            self._started.pop().stop(signal.SIGKILL)
        self._cgroup.remove()
        self._disconnect()

    def remove(self) -> None:
        """Shut the node down and remove its files."""
        self.shut_down()

        def removed() -> bool:
            shutil.rmtree(self.folder, ignore_errors=True)
            return not self.folder.exists()

        with contextlib.suppress(BedError):
            wait_for(removed, 2, "the kernel has not released the mounts of the last process")

    def _connect(self) -> None:
        here = self.addresses
        self._namespaces.create(self.name)
        self._namespaces.link(self.name, "eth0", OUTSIDE, self._cable)
        self._namespaces.inside(
            self.name, [f"address add {here.node}/24 dev eth0", f"route add default via {here.gateway}"]
        )
        self._namespaces.inside(
            OUTSIDE, [f"address add {here.gateway}/24 dev {self._cable}", f"route add {here.pods} via {here.node}"]
        )
        self._namespaces.set_sysctl(self.name, {"net/ipv4/ip_forward": "1"})

    def _disconnect(self) -> None:
        with contextlib.suppress(NamespaceError):  # without a cable after a failure of _connect
            self._namespaces.inside(OUTSIDE, [f"link delete {self._cable}"])
        self._namespaces.delete(self.name)

    def _from(self, template: str) -> str:
        """Return a file of the folder `files` with the values of this node."""
        pods = ipaddress.ip_network(self.addresses.pods)
        return Template((HERE / "files" / template).read_text()).substitute(
            name=self.name,
            vm=self.vm,
            proxy=self.options.proxy,
            pod_range=POD_RANGE,
            pods=pods,
            first_pod=pods[2],  # the one before is the bridge's
            last_pod=pods[1 + self.options.pod_addresses],
            pause_image=PAUSE_IMAGE,
            cni_plugins=self.programs.cni_plugins,
        )

    def _write_files(self) -> None:
        files = {
            "etc/containerd/config.toml": self._from("containerd.toml"),
            "etc/cni/net.d/10-realnode.conflist": self._from(
                f"cni/{'cilium' if self.options.cilium else self.options.cni}.json"
            ),
            "etc/kubernetes/kubelet.yaml": self._from("kubelet.yaml"),
            "etc/kubernetes/kube-proxy.yaml": self._from("kube-proxy.yaml"),
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{self.addresses.node} {self.name}\n",
            **{f"etc/{path}": text for path, text in self.etc.items()},
            **{f"sysctls/{path}": f"{value}\n" for path, value in SHARED_SYSCTLS.items()},
        }
        for path, text in files.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(text)
        if not (self.folder / "pause").exists():
            shutil.copy2(compiled("pause"), self.folder / "pause")
