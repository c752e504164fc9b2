"""The control plane of a test bed: tests/support/testplane with authentication for nodes, outside of the nodes."""

import datetime
import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from typing_extensions import override

from podidentity_sandbox.namespaces import Namespaces
from tests.support.kubectl_and_helm import Commands
from tests.system.node.configuration import kubeconfig
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
DAYS_VALID: Final = 30


@dataclass(frozen=True, slots=True)
class ClusterAuthority:
    """The certificate authority in *folder*, the directory of the control plane."""

    folder: Path

    def kubeconfig(self, user: str, group: str = "") -> str:
        """Return a kubeconfig with a new client certificate of *user*, which is a member of *group*."""
        authority = (self.folder / "ca.crt").read_bytes()
        issuer = x509.load_pem_x509_certificate(authority)
        issuer_key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), password=None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=DAYS_VALID))
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        return kubeconfig(
            authority,
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


class NamespacedCommands(Commands):
    """kubectl and helm as programs of a network namespace."""

    def __init__(self, prefix: Sequence[str], kubeconfig: str, helm: str, home: Path) -> None:
        super().__init__(kubeconfig, helm, home=home)
        self._prefix = prefix

    @override
    def done(self, *command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return super().done(*self._prefix, *command, stdin=stdin)


class ControlPlane:
    """The control plane in the namespace *outside*. Its state is in *folder* and outlives `stop`."""

    def __init__(self, testplane: Path, namespaces: Namespaces, outside: str, folder: Path) -> None:
        self.folder = folder
        self.authority = ClusterAuthority(folder)
        self._testplane = testplane
        self._prefix = namespaces.command(outside, ())
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for programs of the namespace."""
        return self.folder / "kubeconfig"

    def commands(self, helm: str = "helm") -> Commands:
        """Return kubectl, and this version of helm, as the administrator of the cluster."""
        return NamespacedCommands(self._prefix, str(self.folder / "admin.kubeconfig"), helm, self.folder)

    def start(self) -> None:
        """Start the control plane and wait until it is ready. Raise BedError."""
        command = [
            *(*WITH_PARENT, *self._prefix, str(self._testplane), "--stop-on-stdin-eof"),
            *(f"--dir={self.folder}", f"--port={API_PORT}", f"--serve={OUTSIDE_ADDRESS},{API_SERVICE}"),
            *("--scheduler", f"--controllers={','.join(CONTROLLERS)}", "--"),
            *("--bind-address=0.0.0.0", f"--advertise-address={OUTSIDE_ADDRESS}", "--endpoint-reconciler-type=lease"),
            *("--authorization-mode=Node", "--kubelet-preferred-address-types=InternalIP"),
            f"--kubelet-client-certificate={self.folder / 'admin.crt'}",
            f"--kubelet-client-key={self.folder / 'admin.key'}",
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._process.stdout.close()
        if not line:
            raise BedError(f"the control plane ended with {self._process.wait(STOP_SECONDS)}; see {self.folder}/log")
        json.loads(line)
        # testplane removes its own file when it stops, but clients must also see a server that is unavailable.
        (self.folder / "admin.kubeconfig").write_text(self.kubeconfig.read_text())

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
