"""Start of the programs of a pod's containers: the demo, and NMI and MIC with their container settings."""

import asyncio
import contextlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from podidentity_sandbox.containers import command
from podidentity_sandbox.network import ExecutionContext, Network
from podidentity_sandbox.pod_projection import Container, EnvVar, NodePod
from podidentity_sandbox.processes import Program, ProgramError, python
from podidentity_sandbox.relay import Relay
from podidentity_sandbox.volumes import TRUSTED, NodeFiles, mounts, secret_value

IMAGE: Final = re.compile(r".*aad-pod-identity/(demo|mic|nmi)([:@].*)?")
PROGRAMS: Final = {"demo": "podidentity_demo", "mic": "mic", "nmi": "nmi"}
VARIABLE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")
STOP_SECONDS: Final = 2.0
"""The time limit for the demo to end. It has no state to save."""
DAEMON_STOP_SECONDS: Final = 20.0
"""The time limit for NMI and MIC to end."""


class Launcher:
    """Starts programs on one node. Without *files*, the node's own files, it runs only the demo.

    *host* is the context of host-network pods. *environment* is added to the variables that the pod declares. *relayed*
    are the ports of this machine's loopback that a pod of NMI or MIC reaches on its own loopback.
    """

    def __init__(
        self,
        client: Client,
        network: Network,
        *,
        host: ExecutionContext,
        node: str,
        environment: Mapping[str, str],
        files: NodeFiles | None,
        relayed: Sequence[int],
    ) -> None:
        self._client = client
        self.network = network
        self.host = host
        self.node = node
        self._environment = environment
        self._files = files
        self._relayed = relayed
        self._relays: dict[str, list[Relay]] = {}

    def runs(self, container: Container) -> bool:
        """Return whether the launcher runs the container's image."""
        program = program_of(container.image)
        return program == "demo" or (program != "" and self._files is not None)

    async def start(self, pod: NodePod, container: Container, context: ExecutionContext, log: Path) -> Program:
        """Start the container's program with its output in *log*. Raise StartError."""
        try:
            environment = {**self._environment, **await self._declared(pod, container, context)}
            files = self._files if program_of(container.image) != "demo" else None
            argv = _argv(container, environment)
            if files is not None:
                environment["SSL_CERT_FILE"] = str(TRUSTED)
                await self._relay(pod)
                folder = files.root.parent / f"pod-{pod.metadata.uid}"
                seen = await mounts(self._client, pod, container, files, folder)
                argv = command(argv, seen, container.security_context, folder / f"scratch-{container.name}")
            name = f"pod {'/'.join(pod.key)}"
            return await Program.start(name, argv, context=context, log=log, environment=environment)
        except (ProgramError, ApiError, OSError) as error:
            raise StartError(str(error)) from error

    async def stop(self, pod: NodePod, programs: Sequence[Program]) -> None:
        """Stop the programs, then the relays of the pod, also if one of them cannot be stopped."""
        daemons = any(program_of(container.image) in {"mic", "nmi"} for container in pod.spec.containers)
        seconds = DAEMON_STOP_SECONDS if daemons else STOP_SECONDS
        async with contextlib.AsyncExitStack() as parts:  # which ends the last one first
            for relay in self._relays.pop(pod.metadata.uid, []):
                parts.push_async_callback(relay.stop)
            for program in reversed(programs):
                parts.push_async_callback(program.stop, seconds)

    async def _relay(self, pod: NodePod) -> None:
        """Relay ports of this machine's loopback to the pod's loopback."""
        if pod.spec.host_network or pod.metadata.uid in self._relays:
            return
        relays = self._relays[pod.metadata.uid] = []
        for port in self._relayed:
            sockets = await asyncio.to_thread(self.network.sockets_in_pod, pod.metadata.uid, port)
            relays.append(relay := Relay("127.0.0.1", port))
            await relay.serve(sockets)

    async def _declared(self, pod: NodePod, container: Container, context: ExecutionContext) -> dict[str, str]:
        """Return the environment that the container declares."""
        fields = {
            "metadata.name": pod.metadata.name,
            "metadata.namespace": pod.metadata.namespace,
            "metadata.uid": pod.metadata.uid,
            "spec.nodeName": self.node,
            "status.podIP": context.address,
            "status.hostIP": self.host.address,
        }
        return {variable.name: await self._value(pod, variable, fields) for variable in container.env}

    async def _value(self, pod: NodePod, variable: EnvVar, fields: Mapping[str, str]) -> str:
        source = variable.value_from
        if source is None:
            return variable.value
        if source.secret_key_ref is not None:
            key = source.secret_key_ref
            return await secret_value(self._client, pod.metadata.namespace, key.name, key.key)
        return fields.get(source.field_ref.field_path, "") if source.field_ref is not None else ""


def program_of(image: str) -> str:
    """Return the project's program in the image; empty for any other image."""
    match = IMAGE.fullmatch(image)
    return match[1] if match else ""


def expanded(argument: str, environment: Mapping[str, str]) -> str:
    """Return an argument as Kubernetes expands it: $(NAME) becomes the variable's value if it exists, $$ becomes $."""
    return VARIABLE.sub(lambda match: "$" if match[0] == "$$" else environment.get(match[1], match[0]), argument)


def _argv(container: Container, environment: Mapping[str, str]) -> list[str]:
    """Return the command line: the container's command, or the image's program, by this process's interpreter."""
    own = program_of(container.image)
    arguments = [expanded(argument, environment) for argument in container.args]
    program, *rest = [expanded(word, environment) for word in container.command or [own]]
    if program == own:
        return python(PROGRAMS[own], *rest, *arguments)
    return [sys.executable if program == "python3" else program, *rest, *arguments]
