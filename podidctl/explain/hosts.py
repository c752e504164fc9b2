"""The links below the API server: the VM or scale set of the pod's node on Azure, and NMI on that node. Pure."""

from collections.abc import Iterator
from typing import Protocol

from mic.azure.identities import HostIdentities
from mic.claims import USER_ASSIGNED
from podidctl.explain.shapes import Link, State
from podidctl.inquiry.facts import Facts, Unread
from podidctl.inquiry.verdict import is_managed
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.resources import Node, Pod


class MakeLink(Protocol):
    """Makes a link of texts that anybody may have written."""

    def __call__(self, link: str, about: str, state: State, says: str, then: str = "") -> Link: ...


def on_azure(facts: Facts, pod: Pod, make: MakeLink) -> Iterator[Link]:
    """The node's host, and whether the pod's user-assigned identities are on it; nothing where none has to be."""
    wanted = _wanted(facts, pod)
    if not wanted:
        return
    host, link = _host(facts, pod, make)
    yield link
    if host is None:
        return
    for identity in wanted.values():
        yield _attached(facts, host, identity, make)


def _wanted(facts: Facts, pod: Pod) -> dict[str, UserAssignedIdentity]:
    """What has to be on the node's host, by key: of bindings that select the pod, and of what is assigned to it."""
    names = {
        (each.metadata.namespace, each.spec.azure_identity)
        for each in facts.bindings
        if pod.binding_label and each.spec.selector == pod.binding_label
        if not is_managed(facts) or each.metadata.namespace == facts.namespace
    }
    found = [each for each in facts.identities if each.key in names]
    found += [each.spec.azure_identity_ref for each in facts.assigned if not is_managed(facts)]
    ids = (parse_user_assigned(each.spec.resource_id) for each in found if each.spec.type == USER_ASSIGNED)
    return {each.key: each for each in ids if each is not None}


def _host(facts: Facts, pod: Pod, make: MakeLink) -> tuple[Host | None, Link]:
    node, name = facts.node, pod.spec.node_name
    if isinstance(node, Unread):
        return None, make("host", name, State.UNKNOWN, f"the node could not be read: {node.why}")
    if node is None:
        then = "MIC assigns nothing on a node that is not there: delete the pod if the node is gone"
        return None, make("host", name, State.BROKEN, "the cluster has no such node", then)
    return _host_of(node, make)


def _host_of(node: Node, make: MakeLink) -> tuple[Host | None, Link]:
    name, spelled = node.metadata.name, node.spec.provider_id
    host = parse_provider_id(spelled)
    if host is not None:
        return host, make("host", name, State.OK, host.text)
    says = f"its providerID {spelled!r} names no VM or scale set of Azure" if spelled else "it has no providerID"
    then = "see that the node is one of Azure and its cloud provider sets spec.providerID; MIC cannot know its VM else"
    return None, make("host", name, State.BROKEN, says, then)


def _attached(facts: Facts, host: Host, identity: UserAssignedIdentity, make: MakeLink) -> Link:
    about, link = identity.name, "on Azure"
    match facts.azure:
        case None:
            return make(link, about, State.UNKNOWN, "Azure was not asked", "give --cloudconfig to have it asked")
        case HostIdentities(gone=True):
            then = "check the node's providerID, and that whoever asks may read that VM or scale set"
            return make(link, about, State.BROKEN, f"Azure knows no {host.text}", then)
        case HostIdentities() as there if there.certain(identity.key):
            return make(link, about, State.OK, f"it is on {host.name}")
        case HostIdentities(updating=True) as there if identity.key in there.attached:
            return make(link, about, State.UNKNOWN, f"Azure is just changing {host.name}", "ask again in a minute")
        case HostIdentities():
            says = f"{identity.text} is not on {host.name}: IMDS has no token of it"
            then = "see podidctl plan for what keeps MIC from putting it there"
            if is_managed(facts):
                then = f"put it there, as nobody else does in managed mode: az vm (vmss) identity assign on {host.name}"
            return make(link, about, State.BROKEN, says, then)
        case AzureError() as error:
            told = " ".join(filter(None, (str(error.status or ""), error.code, error.message)))
            return make(
                link, about, State.UNKNOWN, f"Azure did not answer: {told}", "check --cloudconfig, or try again"
            )


def on_node(facts: Facts, pod: Pod, make: MakeLink) -> Iterator[Link]:
    """NMI on the pod's node."""
    node, nmi = pod.spec.node_name, facts.nmi
    if isinstance(nmi, Unread):
        yield make("NMI", node, State.UNKNOWN, f"pods could not be listed: {nmi.why}")
    elif not nmi.here and nmi.elsewhere:
        then = "see the DaemonSet's nodeSelector, tolerations and events: without NMI, IMDS itself answers this pod"
        yield make("NMI", node, State.BROKEN, "no pod of NMI is on this node, though there is on others", then)
    elif not nmi.here:
        says = "no pod anywhere has NMI's labels (app.kubernetes.io/component=nmi, component=nmi)"
        yield make(
            "NMI", node, State.UNKNOWN, says, "install NMI, or if it runs otherwise ask its /readyz on that node"
        )
    else:
        for each in nmi.here:
            if each.ready:
                yield make("NMI", each.name, State.OK, f"ready on node {node}")
            else:
                then = f"see kubectl logs -n {each.metadata.namespace} {each.metadata.name} and its /readyz"
                yield make("NMI", each.name, State.BROKEN, f"not ready on node {node}: {each.trouble}", then)
