"""Diagnosis input for tests: a pod that gets its token, one with a federated identity, and the changes of a test."""

from typing import Any

import msgspec

from nmi.choices import OperationMode
from nmi.settings import NmiSettings
from podidctl.checks.explanation import explain
from podidctl.evaluation.pod import PodCase, PredictedDecision, host_of, missing_pod
from podidctl.facts.kinds import Daemon, PlacedNode, PlacedNodeSpec
from podidctl.facts.model import AzureState, Facts, FederatedAccess, NmiConfiguration, ReadFailure
from podidctl.report.documents import Explanation, Link, LinkState
from podidentity.resources import (
    NODENAME_LABEL,
    AzureAssignedIdentity,
    AzureIdentity,
    AzureIdentitySpec,
    BareMeta,
    nodename_label,
)
from tests.support.nmi_objects import CLIENT_ID, NODE, assigned_identity, binding, identity, pod

VM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm-1"


def rules(*, managed: bool = False, force_namespaced: bool = False, **more: Any) -> NmiConfiguration:
    mode = OperationMode.MANAGED if managed else OperationMode.STANDARD
    namespaced = force_namespaced or managed
    return NmiConfiguration(
        NmiSettings(node_name=NODE, operation_mode=mode, force_namespaced=namespaced, **more), "the test"
    )


def labelled(assigned: AzureAssignedIdentity, node: str = NODE) -> AzureAssignedIdentity:
    """With the label in which MIC records the node."""
    meta = msgspec.structs.replace(assigned.metadata, labels={NODENAME_LABEL: nodename_label(node)})
    return msgspec.structs.replace(assigned, metadata=meta)


def nmi_pod(node: str = NODE, *, ready: bool = True) -> Daemon:
    document = {
        "metadata": {"name": "nmi-x", "namespace": "kube-system"},
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }
    return msgspec.convert(document, Daemon)


ON_AZURE = PlacedNode(metadata=BareMeta(name=NODE), spec=PlacedNodeSpec(provider_id=f"azure://{VM}"))


def facts(**changes: Any) -> Facts:
    """Pod ns/web of node-1 with all that it needs. *changes* are fields of the facts; `pod`, `same_address_pods` and
    `node`; `secrets`, which are the credentials; and `azure`, the response about the node's host.
    """
    own, others = changes.pop("pod", pod()), changes.pop("same_address_pods", ())
    node = changes.pop("node", ON_AZURE)
    if isinstance(node, ReadFailure):
        changes["unread"] = {"nodes": node}
    elif node is not None:
        changes["nodes"] = (node,)
    if (host := host_of(node)) is not None and "azure" in changes:
        changes["azure"] = AzureState({host.key: changes["azure"]}) if changes["azure"] is not None else None
    if "secrets" in changes:
        changes["credentials"] = changes.pop("secrets")
    usual: dict[str, Any] = {
        "scope": ("ns", "web") if own is None else own.key,
        "configuration": rules(),
        "pods": others if own is None else (own, *others),
        "bindings": (binding(),),
        "identities": (identity(),),
        "assigned": (labelled(assigned_identity()),),
        "nmi": (nmi_pod(),),
    }
    return Facts(**(usual | changes))


def decision_of(made: Facts) -> PredictedDecision:
    """Return NMI's predicted decision about a request that names no identity."""
    return missing_pod(made) if made.pod is None else PodCase(made, made.pod).decision


def explain_pod(**changes: Any) -> Explanation:
    return explain(facts(**changes))


def broken(explanation: Explanation) -> list[Link]:
    """The broken links; each states the next action."""
    links = [link for link in explanation.links if link.state is LinkState.BROKEN]
    assert all(link.next for link in links)
    assert explanation.next == (links[0].next if links else "")
    return links


def only(explanation: Explanation) -> Link:
    """The one broken link."""
    (link,) = broken(explanation)
    return link


def states(explanation: Explanation) -> list[tuple[str, str]]:
    return [(link.link, link.state.value) for link in explanation.links]


NMI_ACCOUNT = "kube-system/nmi"
WELL = FederatedAccess({"ns": frozenset({"shop"})}, {NMI_ACCOUNT: ()})
SPEC = AzureIdentitySpec(type=3, client_id=CLIENT_ID, tenant_id="contoso.com")


def federated(name: str = "id", *, namespace: str = "ns", **spec: Any) -> AzureIdentity:
    return msgspec.structs.replace(identity(name, namespace=namespace), spec=msgspec.structs.replace(SPEC, **spec))


def trusted(**changes: Any) -> Facts:
    """The facts; *changes* are fields of Facts, or `identity` for that alone."""
    own = changes.pop("identity", federated())
    made = labelled(assigned_identity(own_namespace=own.metadata.namespace))
    embedded = msgspec.structs.replace(made.spec, azure_identity_ref=own)
    usual: dict[str, Any] = {
        "configuration": rules(federated_identities=True),
        "pod": pod(service_account="shop"),
        "identities": (own,),
        "assigned": (msgspec.structs.replace(made, spec=embedded),),
        "federation": WELL,
    }
    return facts(**(usual | changes))
