"""A cluster without programs of this project, helm and kubectl for an installation, and reads of its state."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from podidentity_sandbox.azure import DEMO_CLIENT_ID
from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.sandbox import Sandbox
from podidentity_sandbox.settings import CHART_VALUES, SandboxSettings
from tests.support.checkout import ROOT
from tests.support.identity_requests import NODE, ask
from tests.support.kubectl_and_helm import CommandError, Commands
from tests.support.testplane import up

CHART: Final = ROOT / "deploy" / "charts" / "aad-pod-identity"
NAMESPACE: Final = "identity"
RELEASE: Final = "aad-pod-identity"
SECONDS: Final = 80
"""For steps that take two or three seconds on an idle machine."""
VALUES: Final = {
    **CHART_VALUES,
    "mic": {
        **CHART_VALUES["mic"],
        # Two replicas on one node, which a real cluster of one node would not have.
        "replicas": 2,
        "leaderElection": {"namespace": NAMESPACE},
    },
}


@dataclass
class Cluster:
    """A real control plane with one node that is a network namespace, and an emulated Azure."""

    sandbox: Sandbox
    commands: Commands
    folder: Path

    async def helm(self, *arguments: str) -> str:
        return await self._succeeds(self.commands.helm, *arguments)

    async def kubectl(self, *arguments: str) -> str:
        return await self._succeeds(self.commands.kubectl, *arguments)

    async def shell(self, script: str) -> str:
        """The standard output of lines as an operator types them, each of which must succeed."""
        return await self._succeeds(self.commands.run, "bash", "-ec", script)

    async def install(self, command: str, values: dict[str, Any], *flags: str) -> None:
        """Run helm install or upgrade of the chart with these values, until all workloads are ready."""
        file = self.folder / "values.yaml"
        await asyncio.to_thread(file.write_text, yaml.safe_dump(values))
        where = ("--namespace", NAMESPACE, "--create-namespace", "--values", str(file))
        await self.helm(command, RELEASE, str(CHART), *where, "--wait", f"--timeout={SECONDS}s", *flags)
        # helm 3 calls a DaemonSet ready while its one pod is being replaced, as maxUnavailable allows.
        rollout = ("rollout", "status", f"daemonset/{RELEASE}-nmi", "--namespace", NAMESPACE)
        await self.kubectl(*rollout, f"--timeout={SECONDS}s")

    async def names(self, kind: str, *selectors: str) -> list[str]:
        """Namespace/name of each object of the kind."""
        listed = json.loads(await self.kubectl("get", kind, "--all-namespaces", "--output=json", *selectors))
        return sorted(f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in listed["items"])

    async def tables(self) -> str:
        """All chains and rules of the node, without counters and times."""
        saved = await self.on_node("iptables-save")
        return "\n".join(line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#"))

    async def on_node(self, *command: str) -> str:
        """The standard output of what must succeed, run as a host-network program of the node's."""
        assert isinstance(self.sandbox.network, Fabric)
        namespace = self.sandbox.network.namespaces.full_name("node-0")
        return await self._succeeds(self.commands.run, "ip", "netns", "exec", namespace, *command)

    def read_logs(self) -> str:
        """Return the last output of the pods' programs, for an error message."""
        logs = sorted(self.sandbox.folder.glob(f"{NAMESPACE}_*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    async def _succeeds(self, run: Callable[..., str], *arguments: str) -> str:
        try:
            return await asyncio.to_thread(run, *arguments)
        except CommandError as failure:
            failure.add_note(self.read_logs())
            raise


@asynccontextmanager
async def cluster(plane: up.Plane, folder: Path, helm: str) -> AsyncIterator[Cluster]:
    """A fresh one, with nothing of ours on it: no custom resources, no programs."""
    settings = SandboxSettings(
        namespaces=True, kubeconfig=Path(plane.kubeconfig), schedule=False, programs=False, kinds=False
    )
    async with Sandbox(settings) as sandbox:
        yield Cluster(sandbox, Commands(plane.kubeconfig, helm, home=folder), folder)


async def gets_a_token(here: Cluster) -> None:
    """Fail unless the demo pod gets a token of the demo identity."""
    context = here.sandbox.cluster.kubelets[NODE].context("default", "demo")
    assert context is not None
    response = await ask(here.sandbox, context)
    assert response.status == 200, f"{response.text}\n{here.read_logs()}"
    assert response.claims["appid"] == DEMO_CLIENT_ID
