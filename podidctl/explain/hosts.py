"""The links below the API server: the VM or scale set of the pod's node on Azure, and NMI on that node. Pure."""

from collections.abc import Iterator

from mic.azure.identities import HostIdentities
from mic.decisions.client_ids import mismatch
from nmi.identity.assigned_identity import project
from podidctl.explain.assigned import serves
from podidctl.explain.shapes import Link, State, linked
from podidctl.inquiry.answering import ELSEWHERE, NOWHERE
from podidctl.inquiry.bound import elsewhere, named, selecting
from podidctl.inquiry.facts import Facts, Unread
from podidctl.inquiry.verdict import is_managed, watched
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.resources import AzureIdentity, IdentityType, Node, Pod


def on_azure(facts: Facts, pod: Pod) -> Iterator[Link]:
    """The node's host, and whether the pod's user-assigned identities are on it; nothing where none has to be."""
    wanted = _wanted(facts, pod)
    if not wanted:
        return
    host, link = _host(facts, pod)
    yield link
    if host is None:
        return
    for identity_id in wanted.values():
        yield _attached(facts, host, identity_id)
    for identity in _meant(facts, pod):
        if why := _anothers(facts, identity):
            then = f"correct AzureIdentity {'/'.join(identity.key)}: kubectl edit it"
            yield linked("client id", "/".join(identity.key), State.BROKEN, why, then)


def _anothers(facts: Facts, identity: AzureIdentity) -> str:
    """Why a user-assigned *identity* is given to nobody though it is on the host: by MIC's own judgement."""
    attached = parse_user_assigned(identity.spec.resource_id)
    if identity.spec.type != IdentityType.USER_ASSIGNED or attached is None:
        return ""
    there = facts.azure.attached.get(attached.key) if isinstance(facts.azure, HostIdentities) else None
    return mismatch(identity, there)


def _meant(facts: Facts, pod: Pod) -> list[AzureIdentity]:
    """The identities that are meant for the pod, each once: of its bindings, and of what it is served by."""
    bindings = [each for each in selecting(facts, pod) if not elsewhere(facts, pod, each)]
    found = [identity for each in bindings if (identity := named(facts, each)) is not None]
    if not is_managed(facts):
        found += [
            each.spec.azure_identity_ref
            for each in facts.assigned
            if watched(facts, pod, each) and serves(facts, pod, project(each))
        ]
    return list({(each.key, each.spec.client_id): each for each in found}.values())


def _wanted(facts: Facts, pod: Pod) -> dict[str, UserAssignedIdentity]:
    """What has to be on the node's host, by key."""
    found = (each for each in _meant(facts, pod) if each.spec.type == IdentityType.USER_ASSIGNED)
    ids = (parse_user_assigned(each.spec.resource_id) for each in found)
    return {each.key: each for each in ids if each is not None}


def missing_on_azure(facts: Facts, identity: AzureIdentity) -> str:
    """Why IMDS has no token of *identity* on the pod's node; empty where it has, or that is not known."""
    node, attached = facts.node, parse_user_assigned(identity.spec.resource_id)
    host = parse_provider_id(node.spec.provider_id) if isinstance(node, Node) else None
    if identity.spec.type != IdentityType.USER_ASSIGNED or attached is None or host is None:
        return ""
    link = _attached(facts, host, attached)
    return link.says if link.state is State.BROKEN else _anothers(facts, identity)


def _host(facts: Facts, pod: Pod) -> tuple[Host | None, Link]:
    node, name = facts.node, pod.spec.node_name
    if isinstance(node, Unread):
        return None, linked("host", name, State.UNKNOWN, f"the node could not be read: {node.why}")
    if node is None:
        then = "MIC assigns nothing on a node that is not there: delete the pod if the node is gone"
        return None, linked("host", name, State.BROKEN, "the cluster has no such node", then)
    return _host_of(node)


def _host_of(node: Node) -> tuple[Host | None, Link]:
    name, spelled = node.metadata.name, node.spec.provider_id
    host = parse_provider_id(spelled)
    if host is not None:
        return host, linked("host", name, State.OK, host.text)
    says = f"its providerID {spelled!r} names no VM or scale set of Azure" if spelled else "it has no providerID"
    then = "see that the node is one of Azure and its cloud provider sets spec.providerID; MIC cannot know its VM else"
    return None, linked("host", name, State.BROKEN, says, then)


def _attached(facts: Facts, host: Host, identity: UserAssignedIdentity) -> Link:
    about, link = identity.name, "on Azure"
    match facts.azure:
        case None:
            return linked(link, about, State.UNKNOWN, "Azure was not asked", "give --cloudconfig to have it asked")
        case HostIdentities(gone=True):
            then = "check the node's providerID, and that whoever asks may read that VM or scale set"
            return linked(link, about, State.BROKEN, f"Azure knows no {host.text}", then)
        case HostIdentities() as there if there.certain(identity.key):
            return linked(link, about, State.OK, f"it is on {host.name}")
        case HostIdentities(updating=True) as there if identity.key in there.attached:
            return linked(link, about, State.UNKNOWN, f"Azure is just changing {host.name}", "ask again in a minute")
        case HostIdentities():
            says = f"{identity.text} is not on {host.name}: IMDS has no token of it"
            then = "see podidctl plan for what keeps MIC from putting it there"
            if is_managed(facts):
                then = f"put it there, as nobody else does in managed mode: az vm (vmss) identity assign on {host.name}"
            return linked(link, about, State.BROKEN, says, then)
        case AzureError() as error:
            told = " ".join(filter(None, (str(error.status or ""), error.code, error.message)))
            return linked(
                link, about, State.UNKNOWN, f"Azure did not answer: {told}", "check --cloudconfig, or try again"
            )


def on_node(facts: Facts, pod: Pod) -> Iterator[Link]:
    """NMI on the pod's node."""
    node, nmi = pod.spec.node_name, facts.nmi
    if isinstance(nmi, Unread):
        yield linked("NMI", node, State.UNKNOWN, f"pods could not be listed: {nmi.why}")
    elif not nmi.here and nmi.elsewhere:
        then = "see the DaemonSet's nodeSelector, tolerations and events: without NMI, IMDS itself answers this pod"
        yield linked("NMI", node, State.BROKEN, ELSEWHERE, then)
    elif not nmi.here:
        then = (
            "install NMI: without it IMDS itself answers this pod; where it runs otherwise than as a pod with its "
            "label, ask its /readyz on the node, and give its flags, such as --nmi-flags=--node=NAME"
        )
        yield linked("NMI", node, State.UNKNOWN if facts.rules.given else State.BROKEN, NOWHERE, then)
    else:
        for each in nmi.here:
            if each.ready:
                yield linked("NMI", each.name, State.OK, f"ready on node {node}")
            else:
                then = f"see kubectl logs -n {each.metadata.namespace} {each.metadata.name} and its /readyz"
                yield linked("NMI", each.name, State.BROKEN, f"not ready on node {node}: {each.trouble}", then)
