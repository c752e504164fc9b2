"""One run of `podidctl verify`: the nodes, a canary pod on each of them, and the verdicts."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from podidctl.facts.kinds import Daemon, parse_time
from podidctl.facts.model import Facts
from podidctl.facts.settings import genuine_nmi
from podidctl.reading.daemons import list_daemons
from podidctl.reading.requests import decoded, read_server, review_access
from podidctl.verify import canary
from podidctl.verify.canary_outcome import NotRun
from podidctl.verify.canary_runner import CanaryRunner
from podidctl.verify.logs import NmiLogs
from podidctl.verify.pod import (
    CANARIES,
    CANARY_SELECTOR,
    CLUSTER_NODES,
    Canary,
    ClusterNode,
    NmiTemplate,
    manifest,
)
from podidctl.verify.verdicts import Evidence, NodeVerdict, Verification, judge, without_canary
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError, NotFound
from podidentity.kube.paths import object_path
from podidentity.resources import PODS

PARALLEL: Final = 10
TIMEOUT_SECONDS: Final = 60
NAME_PREFIX: Final = "podidctl-verify-"
DEADLINE_MARGIN_SECONDS: Final = 30
"""The kubelet ends a canary this long after `verify` has stopped waiting for it."""
LEFTOVER_SECONDS: Final = 60
"""A canary that exists this long after its deadline is a leftover: its `verify` was killed."""
NEEDED: Final = ("create", "get", "delete")
"""The permissions on pods that `verify` needs in the canary's namespace."""


async def verify(
    client: Client,
    runner: CanaryRunner,
    *,
    nodes: Sequence[str] = (),
    namespace: str = "",
    parallel: int = PARALLEL,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Verification:
    """Run a canary pod on each of *nodes* (all if empty) in *namespace* (NMI's if empty), and return the verdicts.

    If this is cancelled, the caller must call the *runner*'s `delete_all`.
    Raises ApiError, and StartError without NMI or rights.
    """
    nmis = _nmis(await list_daemons(client, "nmi"))
    selected = await _nodes(client, nodes)
    if not selected:
        raise StartError("the cluster has no Linux node")
    namespace = namespace or nmis[0].metadata.namespace
    await _check_permissions(client, namespace)
    # The list has only some fields of the pods. The canary also gets NMI's tolerations and pull secrets.
    response = await client.request("GET", object_path(PODS, *nmis[0].key))
    template = decoded(response, NmiTemplate, PODS.plural)
    await _delete_leftovers(client, runner, namespace)
    verifier = _Verifier(NmiLogs(client, nmis), runner, namespace, nmis, template, timeout_seconds)
    slots = asyncio.Semaphore(parallel)

    async def verify_node(node: ClusterNode) -> NodeVerdict:
        async with slots:
            return await verifier.verify_node(node)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(verify_node(node), name=f"canary on {node.name}") for node in selected]
    return Verification(namespace, [task.result() for task in running], sorted(name for _, name in runner.not_deleted))


@dataclass(frozen=True)
class _Verifier:
    logs: NmiLogs
    runner: CanaryRunner
    namespace: str
    nmis: Sequence[Daemon]
    template: NmiTemplate
    timeout_seconds: float
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    """The part of the pods' names that one run has in common."""

    async def verify_node(self, node: ClusterNode) -> NodeVerdict:
        here = [nmi for nmi in self.nmis if nmi.spec.node_name == node.name]
        if not node.can_run_nmi:
            return without_canary(node, NotRun("not a Linux machine, so NMI does not serve it"))
        if reason := node.not_ready_reason:
            not_ready = f"the node is not Ready ({reason}), so it runs no canary"
            return without_canary(node, NotRun(not_ready, "repair the node, and repeat this"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        # An unguessable id: only a server that received the canary's request can know it.
        request_id = f"verify-{secrets.token_hex(16)}"
        # The node has the image of its own NMI already.
        container = (here[0] if here else self.nmis[0]).container("nmi")
        document = manifest(
            name=f"{NAME_PREFIX}{self.run}-{secrets.token_hex(4)}",
            namespace=self.namespace,
            node=node.name,
            image=container.image if container is not None else "",
            request_id=request_id,
            template=self.template,
            deadline_seconds=int(self.timeout_seconds) + DEADLINE_MARGIN_SECONDS,
        )
        outcome = await self.runner.run(document, self.timeout_seconds)
        if isinstance(outcome, NotRun):
            return without_canary(node, outcome)
        evidence = Evidence()
        # NMI may refuse a connection itself, so its log may also prove what looks like another server.
        if any(response.who in {canary.NMI, canary.OTHER} for response in outcome):
            evidence = await self.logs.search(node.name, request_id, loop.time() - began)
        return judge(node, outcome, evidence, [nmi.name for nmi in here])


def _nmis(labelled: Sequence[Daemon]) -> list[Daemon]:
    """Return the pods of NMI among those with its label. Raises StartError if there are none.

    A tenant can label a pod like NMI, and its image would run as the canary and its log would count as a proof. So a
    pod without the node's network or files never counts, not even if no DaemonSet runs NMI.
    """
    nmis = [daemon for daemon in genuine_nmi(labelled) if daemon.is_part_of_node]
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
            (node for node in await client.list(CLUSTER_NODES) if node.can_run_nmi), key=lambda node: node.name
        )
    selected: list[ClusterNode] = []
    for name in dict.fromkeys(names):
        try:
            selected.append(await client.get(CLUSTER_NODES, "", name))
        except NotFound as error:
            raise StartError(f"the cluster has no node {name}; see kubectl get nodes") from error
    return selected


async def _check_permissions(client: Client, namespace: str) -> None:
    """Raise StartError if the caller has not all NEEDED permissions. A server that does not answer this is accepted."""
    missing = []
    for verb in NEEDED:
        attributes = {"namespace": namespace, "verb": verb, "resource": "pods"}
        try:
            decision = await review_access(client, "SelfSubjectAccessReview", {"resourceAttributes": attributes})
        except ApiError:
            continue
        if not decision.allowed:
            missing.append(f"{verb} pods")
    if missing:
        raise StartError(
            f"not allowed to run canary pods in namespace {namespace}: grant {', '.join(missing)}; "
            "podidctl verify --help lists all permissions"
        )


async def _delete_leftovers(client: Client, runner: CanaryRunner, namespace: str) -> None:
    """Delete canary pods of earlier runs, which were killed. The caller may lack the permission to list them."""
    try:
        pods = await client.list(CANARIES, namespace, label_selector=CANARY_SELECTOR)
        now = Facts(server=await read_server(client)).server_time if pods else datetime.now(UTC)
    except ApiError:
        return
    # Concurrently, so that they take the time of one.
    await asyncio.gather(*(runner.delete(pod.key) for pod in pods if _is_leftover(pod, now)))


def _is_leftover(pod: Canary, now: datetime) -> bool:
    created = parse_time(pod.metadata.creation_timestamp)
    lifetime = timedelta(seconds=pod.spec.active_deadline_seconds + LEFTOVER_SECONDS)
    # Anyone with permission to create a pod can set the labels, which alone must not cause a deletion.
    return pod.metadata.name.startswith(NAME_PREFIX) and created is not None and created + lifetime < now
