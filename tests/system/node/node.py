"""One real node in namespaces: containerd, kubelet and kube-proxy."""

import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from podidentity_sandbox.namespaces import NamespaceError, Namespaces
from tests.system.node import cilium_programs, configuration
from tests.system.node.cgroups import Cgroup
from tests.system.node.options import NodeAddresses, Options
from tests.system.node.processes import BedError, Process, wait_for
from tests.system.node.programs import HERE, Programs

START_SECONDS: Final = 30
COMMAND_SECONDS: Final = 120
_DELETIONS_MAX: Final = 20
_ENTER: Final = 'procs=$1; shift; for file in $procs; do echo $$ >"$file"; done; exec "$@"'
"""A shell that enters cgroups, then becomes another command: `sh -c _ENTER NAME "FILE FILE" COMMAND...`."""


@dataclass
class Node:
    """A node by its *name*. Its files are in *folder*; `disk` in it outlives a reboot."""

    name: str
    addresses: NodeAddresses
    options: Options
    programs: Programs
    namespaces: Namespaces
    folder: Path
    vm: str = ""
    """The resource id of the node's VM."""
    etc: dict[str, str] = field(default_factory=dict)
    """The content of the files below /etc, by their path."""
    containerd: Process = field(init=False)
    kubelet: Process = field(init=False)
    kube_proxy: Process = field(init=False)
    cilium: Process = field(init=False)
    _first: Process | None = field(default=None, init=False)
    _started: list[Process] = field(default_factory=list, init=False)

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup(self.namespaces.full_name(self.name))

    @property
    def cable(self) -> str:
        """The outside end of the node's cable."""
        return f"node{self.addresses.number}"

    def connect(self, outside: str) -> None:
        """Create the network namespace, connected to that of the name *outside*, and the cgroup."""
        self.namespaces.create(self.name)
        self.namespaces.link(self.name, "eth0", outside, self.cable)
        here = self.addresses
        self.namespaces.inside(
            self.name, [f"address add {here.node}/24 dev eth0", f"route add default via {here.gateway}"]
        )
        self.namespaces.inside(
            outside, [f"address add {here.gateway}/24 dev {self.cable}", f"route add {here.pods} via {here.node}"]
        )
        self.namespaces.set_sysctl(self.name, {"net/ipv4/ip_forward": "1"})
        self.cgroup.create()

    def boot(self) -> None:
        """Start the first process, with new namespaces for all but the network, and containerd. Raise BedError."""
        self._write_files()
        (self.folder / "ready").unlink(missing_ok=True)
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--uts", "--ipc", "--cgroup")
        controllers = " ".join(self.cgroup.controllers)
        self._first = Process(
            [
                *("sh", "-c", _ENTER, "enter", " ".join(map(str, self.cgroup.entrances))),
                *("nsenter", f"--net=/run/netns/{self.namespaces.full_name(self.name)}", *unshare),
                *("--propagation", "private", "sh", str(HERE / "first_process.sh"), str(self.folder), self.name),
                controllers,
            ],
            self.folder / "first_process.log",
            forks=1,
        )
        wait_for((self.folder / "ready").exists, START_SECONDS, f"no first process; see {self._first.log}")
        self.start_containerd()

    def start_containerd(self) -> None:
        """Start containerd and wait until it serves. Raise BedError."""
        self.containerd = self.start("containerd", str(self.programs.containerd), "-c", "/etc/containerd/config.toml")
        wait_for(lambda: self.done(str(self.programs.ctr), "version").returncode == 0, START_SECONDS, "no containerd")

    def start_kubelet(self) -> None:
        self.kubelet = self.start(
            "kubelet",
            *(str(self.programs.testplane), "kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--v=2"),
            *("--kubeconfig=/etc/kubernetes/kubelet.kubeconfig", f"--hostname-override={self.name}"),
            *(f"--node-ip={self.addresses.node}", "--root-dir=/var/lib/kubelet"),
        )

    def start_kube_proxy(self) -> None:
        self.kube_proxy = self.start(
            "kube-proxy",
            str(self.programs.testplane),
            "kube-proxy",
            "--config=/etc/kubernetes/kube-proxy.yaml",
            "--v=2",
        )

    def wait_for_kube_proxy(self) -> None:
        """Wait until kube-proxy has written its tables and chains for both families. Raise BedError."""
        wait_for(
            self._has_kube_proxys_rules, START_SECONDS, f"no rules of kube-proxy; see {self.folder}/kube-proxy.log"
        )

    def start_cilium(self) -> None:
        """Start Cilium's agent and wait until it is healthy. The node object needs its podCIDR. Raise BedError."""
        files = self.programs.cilium
        if files is None or not self.options.cilium:
            raise BedError(f"{self.name} has no Cilium")
        self.run("sh", "-c", cilium_programs.PREPARATION, "prepare", str(files.kernel_programs))
        self.restart_cilium()

    def restart_cilium(self) -> None:
        """Start Cilium's agent again after its end, and wait until it is healthy. Raise BedError."""
        files = self.programs.cilium
        if files is None or not self.options.cilium:
            raise BedError(f"{self.name} has no Cilium")
        flags = cilium_programs.flags(self.options.cilium)
        self.cilium = self.start("cilium", "env", f"K8S_NODE_NAME={self.name}", str(files.agent), *flags)
        healthy = ("curl", "--silent", "--fail", "--header", "brief: true", cilium_programs.HEALTH)
        failure = f"Cilium is not healthy; see {self.cilium.log}"
        wait_for(lambda: self.done(*healthy).returncode == 0, cilium_programs.START_SECONDS, failure)

    def restart_kube_proxy(self) -> None:
        """Restore kube-proxy's rules after a flush, which it would notice an hour later, or not at all with nftables.

        Until then no pod reaches the API server.
        """
        self.kube_proxy.stop()
        self.start_kube_proxy()

    def start(self, log: str, *command: str) -> Process:
        """Start a program of the node. Its output is appended to the file *log*.log."""
        started = Process(self.command(command), self.folder / f"{log}.log", forks=1)
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
        self.run(str(self.programs.ctr), "--namespace=k8s.io", "images", "import", str(archive))

    def reboot(self) -> None:
        """Kill all processes, reset the network's rules, and boot from the old disk without kubelet and kube-proxy."""
        self._kill()
        self._delete_interfaces()
        for command in (("nft", "flush", "ruleset"), ("iptables-legacy", "--table=nat", "--flush")):
            subprocess.run(self.namespaces.command(self.name, command), check=False, capture_output=True)
        self.namespaces.set_sysctl(self.name, {"net/ipv4/conf/all/route_localnet": "0"})
        self.cgroup.remove_children()
        self.boot()

    def remove(self) -> None:
        """Kill all processes of the node and remove cgroup, network namespace and disk."""
        self._kill()
        self.cgroup.remove()
        self.namespaces.delete(self.name)
        # The kernel releases the mounts after the last process has ended.
        for _ in range(20):
            shutil.rmtree(self.folder / "disk", ignore_errors=True)
            shutil.rmtree(self.folder / "overlay", ignore_errors=True)
            if not (self.folder / "disk").exists():
                break
            time.sleep(0.1)

    @property
    def log_folder(self) -> Path:
        """The directory /var/log/pods of the node."""
        return self.folder / "disk" / "log" / "pods"

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs *command* on the node. Raise BedError if the node does not run."""
        if self._first is None:
            raise BedError(f"the node {self.name} does not run")
        return [
            *("sh", "-c", _ENTER, "enter", " ".join(map(str, self.cgroup.later_entrances))),
            *("nsenter", "--target", str(self._first.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"),
            *("env", f"PATH={self.programs.path}", *command),
        ]

    def _has_kube_proxys_rules(self) -> bool:
        if self.options.proxy == "nftables":
            tables = self.run("nft", "list", "tables")
            return all(f"table {family} kube-proxy" in tables for family in ("ip", "ip6"))
        # The canary is the only chain in mangle, and another task of kube-proxy writes it.
        chains = {"nat": "KUBE-SERVICES", "mangle": "KUBE-PROXY-CANARY"}
        return all(
            f":{chain} " in self.done(f"{family}-save", "--table", table).stdout
            for family in ("iptables", "ip6tables")
            for table, chain in chains.items()
        )

    def _delete_interfaces(self) -> None:
        """Delete the interfaces of pods. The kernel deletes those of ended pods at the same time."""
        for _ in range(_DELETIONS_MAX):
            interfaces = self._interfaces()
            if not interfaces:
                return
            for interface in interfaces:
                with suppress(NamespaceError):
                    self.namespaces.inside(self.name, [f"link delete {interface}"])
        raise BedError(f"{self.name} still has the interfaces {', '.join(self._interfaces())}")

    def _kill(self) -> None:
        """Kill the first process, and by that all processes of its pid namespace."""
        if self._first is not None:
            self._first.stop(signal.SIGKILL)
            self._first = None
        while self._started:
            self._started.pop().stop(signal.SIGKILL)

    def _interfaces(self) -> list[str]:
        listed = subprocess.run(
            self.namespaces.command(self.name, ["ip", "-oneline", "link"]), capture_output=True, text=True, check=True
        ).stdout
        names = [line.split(":")[1].strip().partition("@")[0] for line in listed.splitlines()]
        return [each for each in names if each not in {"lo", "eth0"}]

    def _write_files(self) -> None:
        files = {
            "containerd/config.toml": configuration.containerd(str(self.programs.cni_plugins)),
            "cni/net.d/10-realnode.conflist": configuration.cni(self.options, self.addresses.pods),
            "kubernetes/kube-proxy.yaml": configuration.kube_proxy(self.options, self.name),
            "hostname": f"{self.name}\n",
            "hosts": f"127.0.0.1 localhost\n{self.addresses.node} {self.name}\n",
            **self.etc,
        }
        for path, text in files.items():
            file = self.folder / "etc" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(text)
        for setting, value in configuration.SHARED_SYSCTLS.items():
            file = self.folder / "sysctls" / setting
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        if not (self.folder / "pause").exists():
            shutil.copy2(self.programs.pause, self.folder / "pause")
