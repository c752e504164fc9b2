"""Reader of the facts about several pods: what they share is read once, NMI's log once for each node, and for each pod
its Events.
"""

from collections.abc import Callable, Collection, Coroutine, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from mic.azure.host_client import HostReader
from mic.azure.reading import read_hosts
from nmi.identity.pods import own_addresses
from podidctl.evaluation.federated import account_name, proxied_identities
from podidctl.evaluation.needs import CHECKED_MAX, distinct_hosts
from podidctl.evaluation.pod import PodCase, configuration_for
from podidctl.facts.kinds import DATED_PODS, service_account_of
from podidctl.facts.model import AzureState, Facts, FederatedAccess, ReadFailure
from podidctl.facts.nmi_log import decisions_of
from podidctl.facts.settings import likely_nmi, on_node
from podidctl.facts.workloads import Owner, controller
from podidctl.reading.daemons import read_decisions
from podidctl.reading.objects import read_owner
from podidctl.reading.reader import (
    POD_EVENTS,
    claimants,
    counted_names,
    read,
    read_resources,
    secret_checks,
    settings_for,
)
from podidctl.reading.requests import in_batches, or_failure
from podidctl.reading.reviews import read_account_access
from podidctl.report.documents import LoggedDecision
from podidctl.report.text import by_turns, grouped
from podidentity.kube.client import Client
from podidentity.resources import BINDING_LABEL, Pod

T = TypeVar("T")
R = TypeVar("R")
PODS_MAX = CHECKED_MAX
"""Pods that are explained."""
Decisions = Mapping[tuple[str, str], tuple[LoggedDecision, ...] | ReadFailure]
"""By the pod's key."""


async def list_running(
    client: Client, namespace: str, selector: str = BINDING_LABEL, *, node: str = ""
) -> Sequence[Pod]:
    """Return the pods that have not ended, by the label *selector*. Raises ApiError."""
    field = f"spec.nodeName={node}" if node else ""
    pods = await client.list(DATED_PODS, namespace, label_selector=selector, field_selector=field)
    return [pod for pod in pods if not pod.finished]


def chosen(pods: Sequence[Pod]) -> list[Pod]:
    """Return at most PODS_MAX of *pods*, sorted, some of each namespace."""
    in_turn = by_turns(sorted(pods, key=lambda pod: pod.key), lambda pod: pod.metadata.namespace)
    return sorted(in_turn[:PODS_MAX], key=lambda pod: pod.key)


async def read_pods(client: Client, shared: Facts, pods: Sequence[Pod], azure: HostReader | None) -> list[Facts]:
    """Return the facts about each of *pods*. *shared*: facts of the parts SHARED. Raises ApiError."""
    by_node = grouped((pod.spec.node_name, pod) for pod in pods if pod.spec.node_name)
    sharing = chain(*await in_batches(partial(claimants, client, node, its) for node, its in by_node.items()))
    at = grouped(((pod.spec.node_name, address), pod) for pod in sharing for address in own_addresses(pod))
    decisions: dict[tuple[str, str], tuple[LoggedDecision, ...] | ReadFailure] = {}
    for of_node in await in_batches(partial(_decisions, client, shared, node, its) for node, its in by_node.items()):
        decisions |= of_node
    owners = await _once(pods, _maker, partial(_owner, client))
    nodes = {node.metadata.name: node for node in shared.nodes if node.metadata.name in by_node}
    if azure is not None:
        shared = replace(shared, azure=AzureState(await read_hosts(azure, distinct_hosts(nodes.values()))))
    # The flags of the NMI on a node count for all of its pods, so one pod of each node is enough.
    first = {pod.spec.node_name: pod for pod in pods}
    rules = {node: configuration_for(replace(shared, scope=pod.key, pods=(pod,))) for node, pod in first.items()}
    versions = {counted_names(settings_for(shared)): _Version(shared)}
    for counted in [counted_names(configuration.settings) for configuration in rules.values()]:
        # Lists are read again only for NMIs whose flags let other field names count.
        if counted not in versions:
            versions[counted] = _Version(await read_resources(client, shared, counted))
    several = []
    for pod, owner in zip(pods, owners, strict=True):
        node = pod.spec.node_name
        others = {other.key: other for address in own_addresses(pod) for other in at[node, address]}
        others.pop(pod.key, None)
        version = versions[counted_names(rules[node].settings)]
        facts = replace(
            version.facts,
            scope=pod.key,
            configuration=rules[node],
            pods=(pod, *(others[key] for key in sorted(others))),  # in the order of the list
            nodes=(nodes[node],) if node in nodes else (),
            assigned=tuple(version.assigned[pod.key]),
            exceptions=tuple(version.exceptions[pod.metadata.namespace]),
            owner=owner,
            decisions=decisions.get(pod.key, ()),
        )
        several.append(PodCase(facts, pod))
    # A Secret that several pods need is read once if the same rules of NMI count for them.
    by_rules = grouped((_of_secrets(case), case) for case in several)
    checks = await in_batches(partial(secret_checks, client, its) for its in by_rules.values())
    credentials = dict(zip(by_rules, checks, strict=True))
    accounts = await _once(several, _account_key, partial(_account_access, client))
    complete = [
        replace(case.facts, credentials=credentials[_of_secrets(case)], federation=access)
        for case, access in zip(several, accounts, strict=True)
    ]
    return await in_batches(partial(read, client, facts, (POD_EVENTS,)) for facts in complete)


class _Version:
    """The facts with the fields of one choice of field names."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.assigned = grouped(((its.spec.pod_namespace, its.spec.pod), its) for its in facts.assigned)
        self.exceptions = grouped((its.metadata.namespace, its) for its in facts.exceptions)


def _of_secrets(case: PodCase) -> tuple[object, ...]:
    """Return the settings on which the sign-in of a service principal depends."""
    return case.settings.allow_cross_namespace_secrets, case.settings.allowed_ad_endpoints


async def _decisions(client: Client, shared: Facts, node: str, pods: Collection[Pod]) -> Decisions:
    daemon = likely_nmi(on_node(shared.nmi, node))
    logged = await or_failure(read_decisions(client, daemon)) if daemon is not None else {}
    return {pod.key: logged if isinstance(logged, ReadFailure) else decisions_of(pod, logged) for pod in pods}


async def _owner(client: Client, pod: Pod) -> Owner | None:
    return await read_owner(client, pod) if not pod.binding_label else None


def _maker(pod: Pod) -> tuple[object, ...]:
    # Replicas of one workload have the same owner, which is read once for all of them.
    return pod.metadata.namespace, controller(pod), pod.binding_label


async def _account_access(client: Client, case: PodCase) -> FederatedAccess:
    return (await read_account_access(client, case.facts, case.pod)).federation


def _account_key(case: PodCase) -> tuple[object, ...]:
    """Return what the reads about the pod's service account depend on; nothing if there are none."""
    nmi, identities = likely_nmi(case.nmi), case.federated
    by_proxy = tuple(proxied_identities(case.settings, identities))
    return (account_name(case.pod), service_account_of(nmi) if nmi is not None else "", by_proxy) if identities else ()


async def _once(
    items: Sequence[T], key: Callable[[T], Hashable], reading: Callable[[T], Coroutine[Any, Any, R]]
) -> list[R]:
    """Return the result of *reading* for each of *items*, read once for items of the same *key*."""
    distinct = {key(item): item for item in items}
    results = dict(zip(distinct, await in_batches(partial(reading, item) for item in distinct.values()), strict=True))
    return [results[key(item)] for item in items]
