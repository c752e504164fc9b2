"""Reader of the facts. A command names the parts that it reads: they decide about its requests, their order, and the
permissions that it needs.

Around one pod, a failed read of the pod, of pods with its address or of the custom resources raises ApiError. A failed
read of anything else is a `ReadFailure` in the facts.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from mic.azure.host_client import HostReader, ResourceReader
from mic.startup.object_upgrade import KINDS
from mic.startup.settings import MicSettings
from nmi.choices import OperationMode
from nmi.identity.pods import own_addresses
from nmi.settings import NmiSettings
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.pod import PodCase, configuration_for, host_of
from podidctl.facts.kinds import (
    COMPONENT_PREFIX,
    DATED_ASSIGNED_IDENTITIES,
    DATED_BINDINGS,
    DATED_IDENTITIES,
    DATED_PODS,
    DEFINITIONS,
    EVENTS,
    PLACED_NODES,
    Daemon,
    Definition,
    Event,
    parse_time,
)
from podidctl.facts.model import (
    AzureState,
    Facts,
    IdentityKey,
    Locks,
    ObjectReference,
    ReadFailure,
    SecretCheck,
    readable,
)
from podidctl.facts.nmi_log import decisions_of
from podidctl.facts.settings import genuine_mic, genuine_nmi, likely_nmi, on_node, readable_mic_settings
from podidctl.reading.daemons import list_daemons, read_decisions, refused_pods, unassigned_pods
from podidctl.reading.objects import (
    CUSTOM,
    Ignored,
    get_document,
    list_noting,
    read_all_objects,
    read_mislabelled,
    read_owner,
    with_lists,
)
from podidctl.reading.requests import or_failure, or_late, or_none, read_server
from podidctl.reading.reviews import (
    read_account_access,
    read_credentials,
    read_daemon_uses,
    read_federated_access,
    read_rights,
    read_secret_access,
    read_secret_checks,
)
from podidctl.reading.roles import read_roles
from podidctl.reading.rule_monitor import read_rule_monitor
from podidctl.report.documents import LoggedDecision
from podidctl.report.text import by_turns
from podidentity.azure.errors import AzureError
from podidentity.kube.client import Client
from podidentity.kube.lock_records import AnnotationFormat, LeaseFormat, LockFormat, LockRecord
from podidentity.resources import EXCEPTIONS, PODS, Pod

EVENTS_MAX: Final = 5
Part = Callable[[Client, Facts], Awaitable[Facts]]
"""Returns the facts with further ones. Raises ApiError."""


async def read(client: Client, facts: Facts, parts: Sequence[Part]) -> Facts:
    """Return *facts*, which have the scope, with those that *parts* read. Raises ApiError if the API server does not
    respond or rejects the credentials.
    """
    for part in parts:
        facts = await part(client, facts)
    return facts


def reads(
    field: str,
    reading: Callable[[Client, Facts], Awaitable[Any]],
    by: Callable[[Awaitable[Any]], Awaitable[Any]] = or_failure,
) -> Part:
    """Return the part that sets *field* to the result of *reading*, or to the reason of its failure, which *by*
    returns.
    """

    async def run(client: Client, facts: Facts) -> Facts:
        result: Any = await by(reading(client, facts))
        return replace(facts, **{field: result})

    return run


async def _nmi(client: Client, _: Facts) -> tuple[Daemon, ...]:
    return tuple(genuine_nmi(await list_daemons(client, "nmi")))


async def _mic(client: Client, facts: Facts) -> tuple[Daemon, ...]:
    return tuple(genuine_mic(await list_daemons(client, "mic"), readable(facts.nmi)))


async def _dated(_: Client, facts: Facts) -> Facts:
    return replace(facts, now=datetime.now(UTC))


async def _definitions(client: Client, _: Facts) -> dict[str, Definition | ReadFailure | None]:
    names = {kind.plural: f"{kind.plural}.{kind.group}" for kind in KINDS}
    return {key: await or_failure(or_none(client.get(DEFINITIONS, "", name))) for key, name in names.items()}


async def _locks(client: Client, facts: Facts) -> tuple[Locks, ...]:
    """Return the locks of every name that a MIC uses, or of the default name if no MIC was found."""
    usual = MicSettings(namespace="default")
    names = {
        (settings.lease_namespace, settings.lease_name): None for settings in readable_mic_settings(readable(facts.mic))
    }
    locks = []
    for namespace, name in names or {(usual.lease_namespace, usual.lease_name): None}:
        lease = await lock_record(client, LeaseFormat(), namespace, name)
        endpoints = await lock_record(client, AnnotationFormat(), namespace, name)
        locks.append(Locks(namespace, name, lease, endpoints))
    return tuple(locks)


async def lock_record(client: Client, by: LockFormat, namespace: str, name: str) -> LockRecord | None:
    """Return the lock in that object; None if it does not exist. Raises ApiError."""
    document = await or_none(get_document(client, by.kind, namespace, name))
    return by.read(document) if document is not None else None


SERVER: Final = reads("server", lambda client, _: read_server(client))
DAEMONS: Final = (reads("nmi", _nmi), reads("mic", _mic))
# The flags of NMI and MIC decide which field names count, and reviews depend on the objects: the order matters.
CLUSTER: Final[Sequence[Part]] = (
    *DAEMONS,
    SERVER,
    read_all_objects,
    # After the objects: by an earlier time, the newest ones would seem to be from the future.
    _dated,
    reads("definitions", _definitions),
    reads("locks", _locks),
    reads("rights", read_rights),
    reads("secrets", read_secret_access),
    reads("credentials", read_credentials),
    reads("refused", refused_pods),
    reads("federation", read_federated_access),
    reads("daemon_uses", read_daemon_uses),
    reads("rule_monitor", lambda client, _: read_rule_monitor(client)),
    # The longest lists come last.
    reads("unassigned", unassigned_pods, or_late),
    reads("mislabelled", read_mislabelled, or_late),
)
"""Parts of the whole cluster."""


async def _pod(client: Client, facts: Facts) -> Facts:
    pod = await or_none(client.get(DATED_PODS, *facts.scope))
    return replace(facts, pods=(pod,)) if pod is not None else facts


def of_pod(reading: Callable[[Client, Facts, Pod], Awaitable[Facts]]) -> Part:
    """Return the part that reads only if the pod exists."""

    async def run(client: Client, facts: Facts) -> Facts:
        return facts if facts.pod is None else await reading(client, facts, facts.pod)

    return run


async def _nmi_of(client: Client, facts: Facts) -> tuple[Daemon, ...]:
    return await nmi_on(client, facts.pod.spec.node_name) if facts.pod is not None and facts.pod.spec.node_name else ()


async def nmi_on(client: Client, node: str) -> tuple[Daemon, ...]:
    """Return NMI's pods on *node*; if it has none, those of all nodes."""
    here = tuple(genuine_nmi(await list_daemons(client, "nmi", node=node)))
    # A tenant can label a pod like NMI, so the label alone does not end the search.
    if any(daemon.looks_like_nmi for daemon in here):
        return here
    everywhere = tuple(genuine_nmi(await list_daemons(client, "nmi")))
    # If another node has NMI, the pods here are only labelled like it.
    return everywhere if not here or any(daemon.looks_like_nmi for daemon in everywhere) else here


def counted_names(settings: NmiSettings) -> tuple[bool, bool]:
    """Return whether old field names count: of the kinds that NMI reads, and of identities and bindings."""
    # In standard mode MIC reads these, and its upgrade has renamed the fields.
    return settings.read_old_field_names, settings.read_old_field_names and (
        settings.operation_mode is OperationMode.MANAGED
    )


def settings_for(facts: Facts) -> NmiSettings:
    """Return the settings of NMI for the one pod; without the name of one, those of most pods."""
    usual = facts.configuration or ClusterCase(facts).usual
    return (configuration_for(facts) if facts.scope[1] else usual).settings


async def _resources(client: Client, facts: Facts) -> Facts:
    return await read_resources(client, facts, counted_names(settings_for(facts)))


async def read_resources(client: Client, facts: Facts, counted: tuple[bool, bool]) -> Facts:
    """Return the facts with the custom resources around one pod; without the name of one, around all pods. *counted*:
    as of `counted_names`.
    """
    scope = facts.scope
    # The assigned identities come before the bindings. An object written during the reads may then seem to be missing,
    # but a new assignment never seems to be without a binding.
    client.old_field_names = counted[0]
    assigned = [
        assigned
        for assigned in await client.list(DATED_ASSIGNED_IDENTITIES)
        if not scope[1] or (assigned.spec.pod_namespace, assigned.spec.pod) == scope
    ]
    ignored = Ignored()
    exceptions = await list_noting(client, EXCEPTIONS, ignored, scope[0])
    client.old_field_names = counted[1]
    lists: dict[str, Sequence[Any]] = {
        "assigned": assigned,
        "exceptions": exceptions,
        "identities": await list_noting(client, DATED_IDENTITIES, ignored),
        "bindings": await list_noting(client, DATED_BINDINGS, ignored),
    }
    created_at = {
        ObjectReference(CUSTOM[field].plural, *item.key): created
        for field in ("assigned", "identities", "bindings")
        for item in lists[field]
        if (created := parse_time(item.metadata.creation_timestamp)) is not None
    }
    return replace(with_lists(facts, lists), ignored_fields=ignored, created_at=created_at)


async def _node(client: Client, facts: Facts, pod: Pod) -> Facts:
    if not (name := pod.spec.node_name):
        return facts
    node = await or_failure(or_none(client.get(PLACED_NODES, "", name)))
    return with_lists(facts, {"nodes": node if isinstance(node, ReadFailure) else list(filter(None, [node]))})


async def read_nodes(client: Client, facts: Facts) -> Facts:
    """Return the facts with all nodes."""
    return with_lists(facts, {"nodes": await or_failure(client.list(PLACED_NODES))})


SHARED: Final[Sequence[Part]] = (reads("nmi", _nmi), _resources, read_nodes, SERVER, _dated)
"""Parts that several pods share: one list of each kind."""


async def _owner(client: Client, facts: Facts, pod: Pod) -> Facts:
    return facts if pod.binding_label else replace(facts, owner=await read_owner(client, pod))


async def claimants(client: Client, node: str, pods: Collection[Pod]) -> list[Pod]:
    """Return the running pods on *node* that have an address of *pods*. Raises ApiError."""
    addresses = {address for pod in pods for address in own_addresses(pod)}
    # The API server selects pods by their first address only.
    there = await client.list(PODS, field_selector=f"spec.nodeName={node}")
    return [pod for pod in there if not pod.finished and not addresses.isdisjoint(own_addresses(pod))]


async def _neighbours(client: Client, facts: Facts, pod: Pod) -> Facts:
    node = pod.spec.node_name
    there = await claimants(client, node, (pod,)) if node and own_addresses(pod) else ()
    return replace(facts, pods=(pod, *(other for other in there if other.key != pod.key)))


async def _events(client: Client, facts: Facts) -> tuple[Event, ...]:
    if facts.pod is None:
        return ()
    meta = facts.pod.metadata
    # With the uid, because Events of a former pod of this name remain for some time.
    selector = f"involvedObject.kind=Pod,involvedObject.name={meta.name},involvedObject.uid={meta.uid}"
    events = await client.list(EVENTS, meta.namespace, field_selector=selector)
    ours = [event for event in events if event.component.startswith(COMPONENT_PREFIX)]
    return tuple(sorted(ours, key=lambda event: event.at, reverse=True)[:EVENTS_MAX])


POD_EVENTS: Final = reads("events", _events)


async def _decisions(client: Client, facts: Facts) -> tuple[LoggedDecision, ...]:
    pod = facts.pod
    # Only the NMI on the pod's node decides about the pod.
    daemon = likely_nmi(on_node(facts.nmi, pod.spec.node_name)) if pod is not None else None
    if pod is None or daemon is None:
        return ()
    return decisions_of(pod, await read_decisions(client, daemon))


def _on_azure(azure: HostReader) -> Part:
    async def run(_: Client, facts: Facts) -> Facts:
        host = host_of(next(iter(facts.nodes), None))
        if host is None:
            # Not None: the command reads Azure, and only the host of this pod is not known.
            return replace(facts, azure=AzureState())
        try:
            return replace(facts, azure=AzureState({host.key: await azure.get(host)}))
        except AzureError as error:
            return replace(facts, azure=AzureState({host.key: error}))

    return run


async def _secrets(client: Client, facts: Facts, pod: Pod) -> Facts:
    return replace(facts, credentials=await secret_checks(client, [PodCase(facts, pod)]))


async def secret_checks(client: Client, cases: Sequence[PodCase]) -> Mapping[IdentityKey, SecretCheck]:
    """Return the checks of the Secrets of the pods' service principals, some of each namespace, by the settings of the
    first pod's NMI. Raises ApiError only if the API server does not respond.
    """
    identities = {identity.key: identity for case in cases for identity in case.identities}
    in_turn = by_turns(identities.values(), lambda identity: identity.metadata.namespace)
    return await read_secret_checks(client, cases[0].settings, in_turn)


def pod_parts(azure: HostReader | None, roles: ResourceReader | None = None) -> Sequence[Part]:
    """Return the parts around one pod: one get or list of each kind and, with *azure*, one GET of the node's host. With
    *roles*, also the role assignments of its identity.
    """
    return (
        _pod,
        reads("nmi", _nmi_of),
        _resources,
        of_pod(_node),
        of_pod(_owner),
        of_pod(_neighbours),
        POD_EVENTS,
        reads("decisions", _decisions),
        *([_on_azure(azure)] if azure is not None else []),
        SERVER,
        _dated,
        of_pod(_secrets),
        of_pod(read_account_access),
        *([partial(read_roles, roles)] if roles is not None else []),
    )
