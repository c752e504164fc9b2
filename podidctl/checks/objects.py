"""Findings about one object that the command line names, and the pods that it concerns. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from podidctl.checks.bindings import (
    SIMILAR_MAX,
    binding_link,
    correct,
    identity_link,
    ignored_fields,
    ignored_reason,
    named_identity_link,
    namespaces_by_name,
)
from podidctl.checks.daemons import nmi_links
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.needs import live_pods
from podidctl.evaluation.pod import Candidate, PodCase
from podidctl.evaluation.similar_texts import similar_texts
from podidctl.facts.kinds import PLACED_NODES
from podidctl.facts.model import IdentityKey
from podidctl.report.finding import Finding, problem, unknown
from podidctl.report.text import grouped, listed
from podidentity.report import counted
from podidentity.resources import (
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    AzureIdentity,
    AzureIdentityBinding,
    Kind,
    Pod,
    PodSpec,
)

Key = IdentityKey
"""Namespace and name."""


class Examined(NamedTuple):
    """The findings about an object, and the running pods that it concerns."""

    findings: Sequence[Finding]
    pods: Sequence[Pod] = ()


def missing(word: str, kind: Kind[Any], key: Key, existing: Iterable[Key]) -> Examined:
    """Return the finding that no object has this name. *word*: the kind on the command line."""
    namespace, name = key
    others = sorted(existing)
    near = similar_texts(name, [other for its, other in others if its == namespace])[:SIMILAR_MAX]
    near += [f"{its}/{name}" for its, other in others if other == name][:SIMILAR_MAX]
    hint = f"; similar names: {', '.join(near)}" if near else ""
    where = f" -n {namespace}" if namespace else ""
    then = f"check the name with kubectl get {kind.plural}{where}" + (", and pass its namespace" if namespace else "")
    return Examined([problem(word, f"this {kind.name} does not exist{hint}", then, about="/".join(filter(None, key)))])


def examine_identity(case: ClusterCase, key: Key) -> Examined:
    """Examine an AzureIdentity."""
    identity = next((identity for identity in case.facts.identities if identity.key == key), None)
    if identity is None:
        return missing("identity", IDENTITIES, key, (identity.key for identity in case.facts.identities))
    namespace, name = key
    own = [binding for binding in case.facts.bindings if binding.metadata.namespace == namespace]
    bindings = [binding for binding in own if binding.spec.azure_identity == name]
    pods = _selected(case, bindings, identity)
    findings = [identity_link(case, identity)]
    if not bindings:
        named = grouped((binding.spec.azure_identity, binding) for binding in own)
        near = [f"{'/'.join(named[text][0].key)} names {text!r}" for text in similar_texts(name, named)[:SIMILAR_MAX]]
        message = "; ".join((f"no AzureIdentityBinding of namespace {namespace} names this AzureIdentity", *near))
        then = (
            f"create an AzureIdentityBinding in namespace {namespace} with spec.azureIdentity {name}, and with the "
            f"pods' label {BINDING_LABEL} as spec.selector"
        )
        unnamed = [(binding, ignored_fields(case, BINDINGS, binding.key)) for binding in named.get("", ())]
        if ignored := listed(f"{'/'.join(binding.key)} ({fields})" for binding, fields in unnamed if fields):
            message += f"; {ignored_reason(ignored, by_mic=not case.managed)}"
            then = correct("the binding that is to name it")
        findings.append(problem("binding", message, then, about="none"))
    elif not pods:
        findings.append(_no_pod(case, bindings))
    return Examined(findings, pods)


def examine_binding(case: ClusterCase, key: Key) -> Examined:
    """Examine an AzureIdentityBinding."""
    binding = next((binding for binding in case.facts.bindings if binding.key == key), None)
    if binding is None:
        return missing("binding", BINDINGS, key, (binding.key for binding in case.facts.bindings))
    wanted = (binding.metadata.namespace, binding.spec.azure_identity)
    identity = next((identity for identity in case.facts.identities if identity.key == wanted), None)
    pods = _selected(case, [binding], identity)
    if pods:
        have = counted(len(pods), "running pod has", "running pods have")
        link = binding_link(case, binding, f"{have} the label {BINDING_LABEL}={binding.spec.selector}")
    else:
        link = _no_pod(case, [binding])
    named = named_identity_link(case, Candidate(binding, identity, ""), namespaces_by_name(case))
    return Examined([link, named], pods)


def _selected(
    case: ClusterCase, bindings: Collection[AzureIdentityBinding], identity: AzureIdentity | None
) -> list[Pod]:
    """Return the running pods that *bindings* of one identity select and may serve."""
    selectors = {binding.spec.selector for binding in bindings}
    namespaces = {binding.metadata.namespace for binding in bindings}
    own_only = case.namespaced or (identity is not None and identity.namespaced)
    return [
        pod
        for pod in live_pods(case.facts)
        if pod.binding_label in selectors and (not own_only or pod.metadata.namespace in namespaces)
    ]


def _no_pod(case: ClusterCase, several: Collection[AzureIdentityBinding]) -> Finding:
    """Return the finding that none of the bindings selects a pod."""
    if not (bindings := [binding for binding in several if binding.spec.selector]):
        key = min(binding.key for binding in several)
        ignored = ignored_fields(case, BINDINGS, key)
        then = f"set spec.selector of the binding to the pods' label {BINDING_LABEL}"
        then = correct(f"AzureIdentityBinding {'/'.join(key)}") if ignored else then
        message = "it has no selector" + (f"; {ignored_reason(ignored, by_mic=not case.managed)}" if ignored else "")
        return problem("binding", message, then, about="/".join(key))
    pods = {pod.binding_label: "/".join(pod.key) for pod in live_pods(case.facts)}
    selectors = sorted({binding.spec.selector for binding in bindings})
    # Tenants choose the number of bindings, and each comparison takes milliseconds.
    compared = selectors[:SIMILAR_MAX]
    near = [f"{pods[text]} has {text!r}" for selector in compared for text in similar_texts(selector, pods)]
    names = listed(f"{BINDING_LABEL}={selector}" for selector in selectors)
    message = "; ".join((f"no running pod that it may serve has the label {names}", *near[:SIMILAR_MAX]))
    then = f"compare spec.selector with the pods' label {BINDING_LABEL}; no action if these pods run only at times"
    return problem("binding", message, then, about=listed("/".join(binding.key) for binding in bindings))


def examine_node(case: ClusterCase, key: Key) -> Examined:
    """Examine a node, whose *key* has no namespace."""
    _, name = key
    if failure := case.facts.unread.get("nodes"):
        findings = [unknown("node", f"nodes could not be listed: {failure.reason}", about=name)]
        return Examined(findings, _on(case, name))
    node = next((node for node in case.facts.nodes if node.metadata.name == name), None)
    if node is None:
        return missing("node", PLACED_NODES, key, (node.key for node in case.facts.nodes))
    # The links of NMI depend on nothing of a pod but its node.
    any_pod = Pod(spec=PodSpec(node_name=name))
    links = nmi_links(PodCase(replace(case.facts, nodes=(node,)), any_pod))
    return Examined(list(links), _on(case, name))


def _on(case: ClusterCase, node: str) -> list[Pod]:
    return [pod for pod in live_pods(case.facts) if pod.spec.node_name == node]
