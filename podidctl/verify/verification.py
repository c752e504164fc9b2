"""One run of `podidctl verify`: the nodes, a canary pod on each of them, and the verdicts."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from podidctl.facts.kinds import Daemon
from podidctl.facts.settings import genuine_nmi
from podidctl.reading.daemons import list_daemons
from podidctl.reading.requests import server_now
from podidctl.verify import canary
from podidctl.verify.canary_runner import CanaryRunner
from podidctl.verify.judgement import Evidence, judge
from podidctl.verify.logs import NmiLogs
from podidctl.verify.objects import CANARIES, CANARY_SELECTOR, CLUSTER_NODES, Canary, ClusterNode, NmiTemplate
from podidctl.verify.outcome import NotRun
from podidctl.verify.pod import manifest
from podidctl.verify.rights import check_permissions
from podidctl.verify.schema import NodeVerdict, Verification
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, NotFound
from podidentity.kube.paths import object_path
from podidentity.resources import PODS

NAME_PREFIX: Final = "podidctl-verify-"
DEADLINE_MARGIN_SECONDS: Final = 30
"""The kubelet ends a canary this long after `verify` has stopped waiting for it."""
LEFTOVER_SECONDS: Final = 60
"""A canary that exists this long after its deadline is a leftover: its `verify` was killed."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line."""

    nodes: tuple[str, ...] = ()
    """All nodes if empty."""
    namespace: str = ""
    """Namespace of the canary pods; NMI's if empty."""
    parallel: int = 10
    timeout_seconds: float = 60.0


async def verify(client: Client, options: Options) -> Verification:
    """Run a canary pod on each node and return the verdicts. Raises ApiError, and StartError without NMI or rights."""
    nmis = _nmis(await list_daemons(client, "nmi"))
    nodes = await _nodes(client, options.nodes)
    if not nodes:
        raise StartError("the cluster has no Linux node")
    namespace = options.namespace or nmis[0].metadata.namespace
    await check_permissions(client, namespace)
    template = await _template(client, nmis[0])
    runner = CanaryRunner(client, namespace)
    await _delete_leftovers(client, runner, namespace)
    verifier = _Verifier(
        NmiLogs(client, nmis),
        runner,
        namespace=namespace,
        nmis=nmis,
        template=template,
        timeout_seconds=options.timeout_seconds,
    )
    places = asyncio.Semaphore(options.parallel)

    async def one(node: ClusterNode) -> NodeVerdict:
        async with places:
            return await verifier.verify_node(node)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one(node), name=f"canary on {node.name}") for node in nodes]
    return Verification(namespace, [each.result() for each in running], sorted(runner.not_deleted))


class _Verifier:
    def __init__(
        self,
        logs: NmiLogs,
        runner: CanaryRunner,
        *,
        namespace: str,
        nmis: Sequence[Daemon],
        template: NmiTemplate,
        timeout_seconds: float,
    ) -> None:
        self._runner = runner
        self._namespace = namespace
        self._nmis = nmis
        self._template = template
        self._timeout_seconds = timeout_seconds
        self._logs = logs
        self._run = secrets.token_hex(4)

    async def verify_node(self, node: ClusterNode) -> NodeVerdict:
        here = [each for each in self._nmis if each.spec.node_name == node.name]
        names = [each.name for each in here]
        if not node.can_run_nmi:
            return judge(node, NotRun("not a Linux machine, so NMI does not serve it"), Evidence(), names)
        if reason := node.not_ready_reason:
            outcome = NotRun(
                f"the node is not Ready ({reason}), so it runs no canary", "repair the node, and repeat this"
            )
            return judge(node, outcome, Evidence(), names)
        loop = asyncio.get_running_loop()
        began = loop.time()
        # An unguessable id: only a server that received the canary's request can know it.
        request_id = f"verify-{secrets.token_hex(16)}"
        container = (here[0] if here else self._nmis[0]).container("nmi")
        document = manifest(
            name=f"{NAME_PREFIX}{self._run}-{secrets.token_hex(4)}",
            namespace=self._namespace,
            node=node.name,
            image=container.image if container is not None else "",
            request_id=request_id,
            template=self._template,
            deadline_seconds=int(self._timeout_seconds) + DEADLINE_MARGIN_SECONDS,
        )
        found = await self._runner.run(document, self._timeout_seconds)
        evidence = Evidence()
        if not isinstance(found, NotRun) and any(each.who in {canary.NMI, canary.OTHER} for each in found):
            evidence = await self._logs.search(node.name, request_id, loop.time() - began)
        return judge(node, found, evidence, names)


def _nmis(found: Sequence[Daemon]) -> list[Daemon]:
    """Return the pods of NMI among those with its label. Raises StartError if there are none.

    A tenant can label a pod like NMI, and its image would run as the canary and its log would count as a proof. So a
    pod without the node's network or files never counts, not even if no DaemonSet runs NMI.
    """
    nmis = [each for each in genuine_nmi(found) if each.is_part_of_node]
    if not nmis:
        raise StartError(
            "no pod in a node's network, or with files of its node, has NMI's label (app.kubernetes.io/component=nmi, "
            "component=nmi); install NMI"
        )
    return nmis


async def _nodes(client: Client, names: Sequence[str]) -> list[ClusterNode]:
    """Return the nodes with these *names*, or all Linux nodes, by name. Raises StartError for an unknown name."""
    if not names:
        return sorted(
            (each for each in await client.list(CLUSTER_NODES) if each.can_run_nmi), key=lambda each: each.name
        )
    found: list[ClusterNode] = []
    for name in dict.fromkeys(names):
        try:
            found.append(await client.get(CLUSTER_NODES, "", name))
        except NotFound as error:
            raise StartError(f"the cluster has no node {name}; see kubectl get nodes") from error
    return found


async def _template(client: Client, nmi: Daemon) -> NmiTemplate:
    body = await client.request("GET", object_path(PODS, *nmi.key))
    return msgspec.json.decode(body, type=NmiTemplate)


async def _delete_leftovers(client: Client, runner: CanaryRunner, namespace: str) -> None:
    """Delete canary pods of earlier runs, which were killed. The caller may lack the permission to list them."""
    try:
        pods = await client.list(CANARIES, namespace, label_selector=CANARY_SELECTOR)
        now = await server_now(client) if pods else datetime.now(UTC)
    except ApiError:
        return
    for each in pods:
        if _is_leftover(each, now):
            await runner.delete(each.metadata.name)


def _is_leftover(pod: Canary, now: datetime) -> bool:
    try:
        created = datetime.fromisoformat(pod.metadata.creation_timestamp or "")
    except ValueError:
        return False
    lifetime = timedelta(seconds=pod.spec.active_deadline_seconds + LEFTOVER_SECONDS)
    return pod.metadata.name.startswith(NAME_PREFIX) and created + lifetime < now
