"""Reader of the state around one pod: one get or list of each kind and, with *azure*, one GET of the node's host.

Reading the pod or the custom resources raises ApiError on failure. A failed read of anything else (node, NMI's pods and
log, Events) is a `ReadFailure` in the result.
"""

from dataclasses import replace
from typing import Final

from mic.azure.host_client import HostReader
from mic.azure.identities import HostIdentities
from nmi.choices import OperationMode
from nmi.identity.pods import own_addresses
from nmi.tokens.assertions import SERVICE_ACCOUNTS
from podidctl.evaluation.federated import IDENTITIES_MAX, account_name, proxied_identities
from podidctl.evaluation.needs import use_review
from podidctl.evaluation.pod import PodCase
from podidctl.facts.kinds import (
    COMPONENT_PREFIX,
    DATED_PODS,
    EVENTS,
    PLACED_NODES,
    Event,
    PlacedNode,
    service_account_of,
)
from podidctl.facts.model import DiagnosisInput, NmiConfiguration, NmiPods, ReadFailure, ServiceAccountAccess
from podidctl.facts.nmi_log import parse_decisions
from podidctl.facts.settings import configuration_of, genuine_nmi, likely_nmi
from podidctl.reading.daemons import list_daemons, read_log
from podidctl.reading.requests import noting, or_failure, server_now
from podidctl.reading.reviews import may_request_tokens, read_identity_permissions, read_secret_checks
from podidctl.report.documents import LoggedDecision
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.kube.client import Client
from podidentity.kube.errors import NotFound
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, IDENTITIES, PODS, Pod

EVENTS_MAX: Final = 5


async def read_pod(
    client: Client, namespace: str, name: str, *, given: NmiConfiguration | None, azure: HostReader | None
) -> DiagnosisInput:
    """Return the diagnosis input for the pod. *given* replaces the configuration of NMI's pod.

    Raises ApiError.
    """
    pod = await _pod(client, namespace, name)
    on_node = pod is not None and bool(pod.spec.node_name)
    nmi = await or_failure(_nmi(client, pod.spec.node_name)) if pod is not None and on_node else NmiPods()
    configuration = given or configuration_of(nmi, pod)
    # The assigned identities come before the bindings. An object written during the reads may then seem to be missing,
    # but a new assignment never seems to be without a binding.
    client.old_field_names = configuration.settings.read_old_field_names
    assigned = [
        each
        for each in await client.list(ASSIGNED_IDENTITIES)
        if (each.spec.pod_namespace, each.spec.pod) == (namespace, name)
    ]
    ignored: dict[tuple[str, str, str], tuple[str, ...]] = {}
    exceptions = await client.list(EXCEPTIONS, namespace, note=noting(EXCEPTIONS, ignored))
    client.old_field_names &= (
        configuration.settings.operation_mode is OperationMode.MANAGED
    )  # else MIC reads the others
    identities = await client.list(IDENTITIES, note=noting(IDENTITIES, ignored))
    bindings = await client.list(BINDINGS, note=noting(BINDINGS, ignored))
    node = await or_failure(_node(client, pod.spec.node_name)) if pod is not None and on_node else None
    data = DiagnosisInput(
        namespace=namespace,
        name=name,
        configuration=configuration,
        pod=pod,
        same_address_pods=await _pods_with_same_address(client, pod) if pod is not None else (),
        exceptions=tuple(exceptions),
        bindings=tuple(bindings),
        identities=tuple(identities),
        assigned=tuple(assigned),
        ignored_fields=ignored,
        node=node,
        nmi=nmi,
        events=await or_failure(_events(client, pod)) if pod is not None else (),
        decisions=await or_failure(_decisions(client, pod, nmi)) if pod is not None else (),
        azure=await _on_azure(azure, node) if azure is not None else None,
        now=await server_now(client),
    )
    if pod is None:
        return data
    secrets = await read_secret_checks(client, data.configuration.settings, PodCase(data, pod).identities)
    data = replace(data, secrets=secrets)
    federated = PodCase(data, pod).federated
    if not federated:
        return data
    data = replace(data, account=await _service_account_access(client, pod, nmi))
    proxied = proxied_identities(data.configuration.settings, federated)
    if not proxied or not pod.spec.service_account_name:
        return data
    reviews = {each: use_review(account_name(pod), each) for each in list(proxied)[:IDENTITIES_MAX]}
    reads = read_identity_permissions(client, reviews)
    return replace(data, permissions=await or_failure(reads))


async def _pod(client: Client, namespace: str, name: str) -> Pod | None:
    try:
        return await client.get(DATED_PODS, namespace, name)
    except NotFound:
        return None


async def _pods_with_same_address(client: Client, pod: Pod) -> tuple[Pod, ...]:
    found: dict[str, Pod] = {}
    for address in own_addresses(pod):
        selector = f"status.podIP={address},spec.nodeName={pod.spec.node_name}"
        for each in await client.list(PODS, field_selector=selector):
            if each.key != pod.key and not each.finished and address in own_addresses(each):
                found["/".join(each.key)] = each
    return tuple(found.values())


async def _node(client: Client, name: str) -> PlacedNode | None:
    try:
        return await client.get(PLACED_NODES, "", name)
    except NotFound:
        return None


async def _nmi(client: Client, node: str) -> NmiPods:
    here = tuple(genuine_nmi(await list_daemons(client, "nmi", node=node)))
    if any(each.looks_like_nmi for each in here):
        return NmiPods(here)
    everywhere = genuine_nmi(await list_daemons(client, "nmi"))
    if any(each.looks_like_nmi for each in everywhere):
        # The pods here are only labelled like NMI.
        return NmiPods(others=tuple(everywhere))
    return NmiPods(here) if here else NmiPods(others=tuple(everywhere))


async def _events(client: Client, pod: Pod) -> tuple[Event, ...]:
    meta = pod.metadata
    selector = f"involvedObject.kind=Pod,involvedObject.name={meta.name},involvedObject.uid={meta.uid}"
    found = await client.list(EVENTS, meta.namespace, field_selector=selector)
    ours = [each for each in found if each.component.startswith(COMPONENT_PREFIX)]
    return tuple(sorted(ours, key=lambda each: each.at, reverse=True)[:EVENTS_MAX])


async def _decisions(client: Client, pod: Pod, nmi: NmiPods | ReadFailure) -> tuple[LoggedDecision, ...]:
    if isinstance(nmi, ReadFailure) or not nmi.here:
        return ()
    log = await read_log(client, likely_nmi(nmi))
    return parse_decisions(log, "/".join(pod.key), pod.metadata.uid)


async def _service_account_access(client: Client, pod: Pod, nmi: NmiPods | ReadFailure) -> ServiceAccountAccess:
    namespace, name = pod.metadata.namespace, pod.spec.service_account_name
    there = await or_failure(_exists(client, namespace, name))
    if isinstance(nmi, ReadFailure) or not nmi.here:
        return ServiceAccountAccess(there, nmi if isinstance(nmi, ReadFailure) else None)
    its = service_account_of(likely_nmi(nmi))
    return ServiceAccountAccess(there, await or_failure(may_request_tokens(client, its, namespace, name)), its)


async def _exists(client: Client, namespace: str, name: str) -> bool:
    try:
        await client.get(SERVICE_ACCOUNTS, namespace, name)
    except NotFound:
        return False
    return True


async def _on_azure(azure: HostReader, node: PlacedNode | ReadFailure | None) -> HostIdentities | AzureError | None:
    host = parse_provider_id(node.spec.provider_id) if isinstance(node, PlacedNode) else None
    if host is None:
        return None
    try:
        return await azure.get(host)
    except AzureError as error:
        return error
