"""An API server, Resource Manager and sign-in of the sandbox, and the real `python -m mic` as a process on top."""

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from podidentity_sandbox.aad import Aad
from podidentity_sandbox.arm import Arm
from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.cluster import CRDS, read_documents
from podidentity_sandbox.directory import Directory
from podidentity_sandbox.kubeapi.server import KubeApi
from podidentity_sandbox.serving import free_ports
from podidentity_sandbox.tokens import TokenMint
from tests.support.checkout import ROOT
from tests.support.objects import identity_id, set_id, vm_id
from tests.support.waiting import LIMIT_SECONDS, until

GROUP = "aadpodidentity.k8s.io"
IDENTITIES = f"azureidentities.{GROUP}"
BINDINGS = f"azureidentitybindings.{GROUP}"
EXCEPTIONS = f"azurepodidentityexceptions.{GROUP}"
ASSIGNED = f"azureassignedidentities.{GROUP}"


@dataclass
class Mic:
    """One running process."""

    process: asyncio.subprocess.Process
    probe_port: int
    metrics_port: int
    log: Path

    async def page(self, path: str) -> str:
        port = self.metrics_port if path == "/metrics" else self.probe_port

        def fetch() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT_SECONDS) as response:
                return str(response.read().decode())

        return await asyncio.to_thread(fetch)

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.terminate()
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.process.wait()

    async def suspended(self) -> None:
        """Wait until the process is stopped by SIGSTOP."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        await until(lambda: stat.read_bytes().rpartition(b")")[2].split()[0] == b"T", "the process is stopped")

    def read_log(self) -> str:
        return self.log.read_text()


@dataclass
class StoredObjects:
    """Creates objects in the store of *api*, as kubectl and a kubelet leave them."""

    api: KubeApi

    def node(self, name: str, provider_id: str = "") -> None:
        self.api.store.create(
            "nodes", {"metadata": {"name": name}, "spec": {"providerID": provider_id or f"azure://{vm_id(name)}"}}
        )

    def pod(self, name: str, node: str, *, label: str = "demo", namespace: str = "default", **spec: Any) -> None:
        self.api.store.create(
            "pods",
            {
                "metadata": {"name": name, "namespace": namespace, "labels": {"aadpodidbinding": label}},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], **spec},
                "status": {"phase": "Running"},
            },
        )

    def remove_pod(self, name: str, namespace: str = "default") -> None:
        self.api.store.delete("pods", name, namespace, grace_seconds=0)

    def identity(self, name: str = "demo", *, namespace: str = "default", selector: str = "", **spec: Any) -> None:
        """Create an identity and its binding."""
        usual = {"type": 0, "resourceID": identity_id(name), "clientID": f"client-{name}"}
        self.create(IDENTITIES, name, usual | spec, namespace)
        self.create(BINDINGS, name, {"azureIdentity": name, "selector": selector or name}, namespace)

    def create(self, kind: str, name: str, spec: Mapping[str, Any], namespace: str = "default") -> None:
        self.api.store.create(kind, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})


@dataclass
class EmulatedCloud(StoredObjects):
    """The servers around MIC."""

    folder: Path
    arm: Arm
    aad: Aad
    directory: Directory
    mint: TokenMint
    running: list[Mic] = field(default_factory=list)

    async def mic(
        self,
        *flags: str,
        active: bool = True,
        environ: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
        module: str = "mic",
    ) -> Mic:
        """Start another MIC; with *active*, wait until it leads. A later flag wins; *environ* is added to its own.
        *inside* is a command that runs it. *module* is mic or one that starts it."""
        ports = free_ports(2)
        log = self.folder / f"mic-{len(self.running)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *inside,
                sys.executable,
                "-m",
                module,
                f"--kubeconfig={self.folder / 'kubeconfig'}",
                f"--cloudconfig={self.folder / 'azure.json'}",
                f"--ca-bundle={self.folder / 'ca.pem'}",
                f"--http-probe-port={ports[0]}",
                f"--prometheus-port={ports[1]}",
                f"--leader-election-instance=mic-{len(self.running)}",
                *flags,
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "MIC_POD_NAMESPACE": "default",
                    "AZURE_ENVIRONMENT_FILEPATH": str(self.folder / "cloud.json"),
                    **(environ or {}),
                },
                stdout=output,
                stderr=output,
            )
        mic = Mic(process, ports[0], ports[1], log)
        self.running.append(mic)
        if active:
            await self.active(mic)
        return mic

    def change_config(self, **changed: Any) -> None:
        """Change fields of azure.json."""
        path = self.folder / "azure.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(json.loads(path.read_text()) | changed))
        fresh.rename(path)

    async def active(self, mic: Mic) -> None:
        async def is_active() -> bool:
            assert mic.process.returncode is None, f"ended with {mic.process.returncode}: {mic.read_log()}"
            try:
                return await mic.page("/healthz") == "Active"
            except OSError:
                return False

        await until(is_active, "MIC is active")

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Wait until *holds* returns True. The emulators are in this process, so frequent checks are cheap."""

        def holds_while_all_run() -> object:
            for mic in self.running:
                assert mic.process.returncode in {None, 0}, mic.read_log()
            return holds()

        def logs() -> str:
            return "\n".join([what, *(mic.read_log()[-3000:] for mic in self.running)])

        await until(holds_while_all_run, logs)

    @override
    def identity(self, name: str = "demo", **options: Any) -> None:
        """Create an identity, its binding, and the identity in Azure."""
        self.directory.add_identity(identity_id(name), client_id=f"client-{name}")
        super().identity(name, **options)

    def assigned(self) -> dict[str, str]:
        """Object name -> status."""
        return {
            assigned["metadata"]["name"]: assigned["status"]["status"] for assigned in self.api.store.list(ASSIGNED)
        }

    def on(self, host_id: str) -> set[str]:
        """The names of the identities on the host."""
        return {key.rpartition("/")[2] for key in self.arm.vm(host_id).identities}

    def events(self) -> set[tuple[str, str]]:
        """(name of the object, reason) of every Event."""
        return {(event["involvedObject"]["name"], event["reason"]) for event in self.api.store.list("events")}


@asynccontextmanager
async def emulated_cloud(folder: Path) -> AsyncIterator[EmulatedCloud]:
    """The cloud, with two VMs and one scale set; all processes and servers are stopped at the end."""
    authority = await asyncio.to_thread(Authority)
    mint = await asyncio.to_thread(TokenMint)
    directory = Directory()
    api = KubeApi(await asyncio.to_thread(read_documents, CRDS), authority=authority)
    arm, aad = Arm(directory, mint), Aad(directory, mint)
    context = await asyncio.to_thread(authority.server_context)
    await api.start()
    await arm.start(ssl_context=context)
    await aad.start(ssl_context=context)
    principal = directory.add_principal()
    directory.grant(principal.object_id, "Contributor")
    for name in ("n0", "n1"):
        arm.add_vm(vm_id(name), operation_seconds=0.2)
    arm.add_vmss(set_id(), operation_seconds=0.2)
    (folder / "kubeconfig").write_text(api.kubeconfig())
    (folder / "ca.pem").write_text(authority.pem)
    config = {"tenantId": directory.tenant_id, "aadClientId": principal.client_id, "aadClientSecret": principal.secret}
    (folder / "azure.json").write_text(json.dumps(config | {"cloud": "AzureStackCloud"}))
    (folder / "cloud.json").write_text(
        json.dumps(
            {
                "name": "AzureStackCloud",
                "activeDirectoryEndpoint": aad.url,
                "resourceManagerEndpoint": arm.url,
                "tokenAudience": "https://management.azure.com/",
            }
        )
    )
    cloud = EmulatedCloud(api, folder, arm, aad, directory, mint)
    try:
        yield cloud
    finally:
        for mic in cloud.running:
            if mic.process.returncode is None:
                mic.process.kill()
                await mic.process.wait()
        await api.stop()
        await arm.stop()
        await aad.stop()
