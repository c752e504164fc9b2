"""Links outside the API server: the VM or scale set of the pod's node on Azure, and NMI on that node. Pure."""

from collections.abc import Iterator

from mic.azure.identities import HostIdentities
from mic.decisions.client_ids import mismatch
from nmi.identity.assigned_identity import project
from podidctl.diagnosis.bindings import named_identity, namespace_restriction, selecting_bindings
from podidctl.diagnosis.decision import is_managed, is_watched
from podidctl.diagnosis.input import DiagnosisInput, ReadFailure
from podidctl.diagnosis.nmi_availability import NO_NMI_FOUND, absent_nmi
from podidctl.diagnosis.node_placement import PlacedNode
from podidctl.explain.assignments import is_served
from podidctl.explain.schema import Link, LinkState, make_link
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.resources import AzureIdentity, IdentityType, Pod


def azure_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the links of the node's host and of the pod's user-assigned identities on it; none if the pod needs none
    there.
    """
    wanted = _required_identity_ids(data, pod)
    if not wanted:
        return
    host, link = _host(data, pod)
    yield link
    if host is None:
        return
    for identity_id in wanted.values():
        yield _attached(data, host, identity_id)
    for identity in _intended_identities(data, pod):
        if why := _client_id_mismatch(data, identity):
            then = f"correct AzureIdentity {'/'.join(identity.key)} with kubectl edit"
            yield make_link("client id", "/".join(identity.key), LinkState.BROKEN, why, then)


def _client_id_mismatch(data: DiagnosisInput, identity: AzureIdentity) -> str:
    """Return why MIC does not assign the user-assigned *identity* although it is attached to the host, by MIC's own
    check.
    """
    attached = parse_user_assigned(identity.spec.resource_id)
    if identity.spec.type != IdentityType.USER_ASSIGNED or attached is None:
        return ""
    there = data.azure.attached.get(attached.key) if isinstance(data.azure, HostIdentities) else None
    return mismatch(identity, there)


def _intended_identities(data: DiagnosisInput, pod: Pod) -> list[AzureIdentity]:
    """Return the pod's identities, each once: those of its bindings and those that it is served by."""
    bindings = [each for each in selecting_bindings(data, pod) if not namespace_restriction(data, pod, each)]
    found = [identity for each in bindings if (identity := named_identity(data, each)) is not None]
    if not is_managed(data):
        found += [
            each.spec.azure_identity_ref
            for each in data.assigned
            if is_watched(data, pod, each) and is_served(data, pod, project(each))
        ]
    return list({(each.key, each.spec.client_id): each for each in found}.values())


def _required_identity_ids(data: DiagnosisInput, pod: Pod) -> dict[str, UserAssignedIdentity]:
    """Return the identities that must be attached to the node's host, by key."""
    found = (each for each in _intended_identities(data, pod) if each.spec.type == IdentityType.USER_ASSIGNED)
    ids = (parse_user_assigned(each.spec.resource_id) for each in found)
    return {each.key: each for each in ids if each is not None}


def missing_on_azure(data: DiagnosisInput, identity: AzureIdentity) -> str:
    """Return why IMDS has no token of *identity* on the pod's node; empty if it has one or this is unknown."""
    node, attached = data.node, parse_user_assigned(identity.spec.resource_id)
    host = parse_provider_id(node.spec.provider_id) if isinstance(node, PlacedNode) else None
    if identity.spec.type != IdentityType.USER_ASSIGNED or attached is None or host is None:
        return ""
    link = _attached(data, host, attached)
    return link.says if link.state is LinkState.BROKEN else _client_id_mismatch(data, identity)


def _host(data: DiagnosisInput, pod: Pod) -> tuple[Host | None, Link]:
    node, name = data.node, pod.spec.node_name
    if isinstance(node, ReadFailure):
        return None, make_link("host", name, LinkState.UNKNOWN, f"the node could not be read: {node.why}")
    if node is None:
        then = "MIC assigns no identity on a node that does not exist: delete the pod if the node was deleted"
        return None, make_link("host", name, LinkState.BROKEN, "the cluster has no such node", then)
    return _host_of(node)


def _host_of(node: PlacedNode) -> tuple[Host | None, Link]:
    name, spelled = node.metadata.name, node.spec.provider_id
    host = parse_provider_id(spelled)
    if host is not None:
        return host, make_link("host", name, LinkState.OK, host.text)
    says = f"its providerID {spelled!r} does not name a VM or scale set of Azure" if spelled else "it has no providerID"
    then = "check that the node is on Azure and that its cloud provider sets spec.providerID, which MIC needs"
    return None, make_link("host", name, LinkState.BROKEN, says, then)


def _attached(data: DiagnosisInput, host: Host, identity: UserAssignedIdentity) -> Link:
    about, link = identity.name, "on Azure"
    match data.azure:
        case None:
            return make_link(
                link, about, LinkState.UNKNOWN, "Azure was not asked", "pass --cloudconfig to read the state on Azure"
            )
        case HostIdentities(gone=True):
            then = "check the node's providerID, and that these credentials may read that VM or scale set"
            return make_link(link, about, LinkState.BROKEN, f"Azure has no {host.text}", then)
        case HostIdentities() as there if there.certain(identity.key):
            return make_link(link, about, LinkState.OK, f"it is on {host.name}")
        case HostIdentities(updating=True) as there if identity.key in there.attached:
            return make_link(
                link,
                about,
                LinkState.UNKNOWN,
                f"an update of {host.name} on Azure is in progress",
                "run this command again in a minute",
            )
        case HostIdentities():
            says = f"{identity.text} is not attached to {host.name}, so IMDS has no token of it"
            then = "see podidctl plan for the reason why MIC does not attach it"
            if is_managed(data):
                then = f"attach it: az vm (vmss) identity assign on {host.name}; in managed mode no controller does"
            return make_link(link, about, LinkState.BROKEN, says, then)
        case AzureError() as error:
            cause = " ".join(filter(None, (str(error.status or ""), error.code, error.message)))
            return make_link(
                link, about, LinkState.UNKNOWN, f"Azure did not answer: {cause}", "check --cloudconfig, or try again"
            )


def nmi_links(data: DiagnosisInput, pod: Pod) -> Iterator[Link]:
    """Yield the links of NMI on the pod's node."""
    node, nmi = pod.spec.node_name, data.nmi
    if (missing := absent_nmi(data)) is not None:
        says = f"this node has no NMI, so {missing.effect}: {missing.why}"
        yield make_link("NMI", node, LinkState.BROKEN, says, missing.then)
    elif isinstance(nmi, ReadFailure):
        yield make_link("NMI", node, LinkState.UNKNOWN, f"pods could not be listed: {nmi.why}")
    elif not nmi.here:
        then = (
            "install NMI: without it IMDS responds to this pod; if NMI runs outside of a pod with its label, read its "
            "/readyz on the node, and pass its flags, such as --nmi-flags=--node=NAME"
        )
        yield make_link(
            "NMI", node, LinkState.UNKNOWN if data.configuration.is_given else LinkState.BROKEN, NO_NMI_FOUND, then
        )
    else:
        for each in nmi.here:
            if each.ready:
                yield make_link("NMI", each.name, LinkState.OK, f"ready on node {node}")
            else:
                then = f"see kubectl logs -n {each.metadata.namespace} {each.metadata.name} and its /readyz"
                yield make_link(
                    "NMI", each.name, LinkState.BROKEN, f"not ready on node {node}: {each.not_ready_reason}", then
                )
