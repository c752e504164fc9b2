"""The control plane of a test bed: tests/support/testplane with authentication for nodes, outside of the nodes."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml
from typing_extensions import override

from podidentity_sandbox.namespaces import Namespaces
from tests.support.kubectl_and_helm import Commands
from tests.support.testplane import up
from tests.system.node.options import API_PORT, API_SERVICE, OUTSIDE_ADDRESS
from tests.system.node.processes import STOP_SECONDS, WITH_PARENT, BedError

CONTROLLERS: Final = (
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "clusterrole-aggregation-controller",
    "replicaset-controller",
    "deployment-controller",
    "daemonset-controller",
    "statefulset-controller",
    "job-controller",
    "endpointslice-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "ttl-after-finished-controller",
    "disruption-controller",
)


class NamespacedCommands(Commands):
    """kubectl and helm as programs of a network namespace."""

    def __init__(self, prefix: Sequence[str], kubeconfig: Path, helm: str) -> None:
        super().__init__(str(kubeconfig), helm)
        self._prefix = prefix

    @override
    def done(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return super().done(*self._prefix, *command, stdin=stdin)


class ControlPlane:
    """The control plane in the namespace *outside*. Its state is in *folder* and outlives `stop`."""

    def __init__(self, namespaces: Namespaces, outside: str, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        """The administrator's, for programs of the namespace."""
        self._prefix = namespaces.command(outside, ())
        self._process: subprocess.Popen[bytes] | None = None

    def commands(self, helm: str = "helm") -> Commands:
        """Return kubectl, and this version of helm, as the administrator of the cluster."""
        return NamespacedCommands(self._prefix, self.kubeconfig, helm)

    def start(self) -> None:
        """Start the control plane and wait until it is ready. Raise BedError."""
        command = [
            *(*WITH_PARENT, *self._prefix, str(up.build()), "--stop-on-stdin-eof"),
            *(f"--dir={self.folder}", f"--port={API_PORT}", f"--serve={OUTSIDE_ADDRESS},{API_SERVICE}"),
            *("--scheduler", f"--controllers={','.join(CONTROLLERS)}", "--"),
            *("--bind-address=0.0.0.0", f"--advertise-address={OUTSIDE_ADDRESS}", "--endpoint-reconciler-type=lease"),
            *("--authorization-mode=Node", "--kubelet-preferred-address-types=InternalIP"),
            f"--kubelet-client-certificate={self.folder / 'admin.crt'}",
            f"--kubelet-client-key={self.folder / 'admin.key'}",
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            if not output.readline():
                raise BedError(
                    f"the control plane ended with {self._process.wait(STOP_SECONDS)}; see {self.folder}/log"
                )
        # testplane removes its own file when it stops, but clients must also see a server that is unavailable.
        self.kubeconfig.write_text((self.folder / "kubeconfig").read_text())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the control plane and wait for it. Does nothing if it does not run."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.send_signal(number)
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def kubeconfig_of(self, user: str, *groups: str) -> str:
        """Return a kubeconfig with which the administrator acts as *user*, who is a member of *groups*."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{OUTSIDE_ADDRESS}:{API_PORT}"
        config["users"][0]["user"] |= {"as": user, "as-groups": list(groups)}
        return yaml.safe_dump(config)
