"""Objects that must be corrected before MIC can act on them, and the number of affected pods. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from mic.cluster.bindings import BindingIndex, indexed
from mic.cluster.mirror_pods import MESSAGE
from mic.decisions.assignments import ExistingAssignment, Key, misconfigured
from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.schema import LeftOut
from podidentity.azure.resource_ids import parse_provider_id
from podidentity.object_limits import oversized
from podidentity.report import MESSAGE_MAX, cut
from podidentity.resources import Pod


def left_out(snapshot: Snapshot, policy: Policy, *, force_namespaced: bool) -> list[LeftOut]:
    """Return all of them, ordered by kind and name."""
    entries = [
        *_bindings_and_identities(snapshot, force_namespaced=force_namespaced),
        *_nodes(snapshot, policy, force_namespaced=force_namespaced),
        *(_left("Pod", pod.key, MESSAGE, 1) for pod in bound(snapshot) if pod.mirror),
    ]
    return sorted(entries, key=lambda entry: (entry.kind, entry.name))


def bound(snapshot: Snapshot) -> Iterator[Pod]:
    """Yield the pods that bindings may select: on a node, with a label, and not finished."""
    return (pod for pod in snapshot.pods if pod.binding_label and pod.spec.node_name and not pod.finished)


def _bindings_and_identities(snapshot: Snapshot, *, force_namespaced: bool) -> Iterator[LeftOut]:
    labels = Counter(pod.binding_label for pod in bound(snapshot))
    identities = {identity.key: identity for identity in snapshot.identities}
    selectors: defaultdict[Key, set[str]] = defaultdict(set)
    for binding in snapshot.bindings:
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        selectors[key].add(binding.spec.selector)
        if reason := oversized(binding):
            yield _left("AzureIdentityBinding", binding.key, reason, labels[binding.spec.selector])
        elif key not in identities:
            reason = f"there is no AzureIdentity {'/'.join(key)}"
            yield _left("AzureIdentityBinding", binding.key, reason, labels[binding.spec.selector])
    for binding, reason in _index(snapshot, force_namespaced=force_namespaced).beyond():
        yield _left("AzureIdentityBinding", binding.key, cut(reason), labels[binding.spec.selector])
    for key, identity in identities.items():
        if reason := misconfigured(identity):
            yield _left("AzureIdentity", key, cut(reason), sum(labels[selector] for selector in selectors[key]))


def _nodes(snapshot: Snapshot, policy: Policy, *, force_namespaced: bool) -> Iterator[LeftOut]:
    """Yield nodes without a host, or with one that MIC may not change, whose pods need one."""
    nodes = {node.metadata.name: node.spec.provider_id for node in snapshot.nodes}
    index = _index(snapshot, force_namespaced=force_namespaced)
    pods: Counter[str] = Counter()
    for pod in bound(snapshot):
        provider_id = nodes.get(pod.spec.node_name)
        host = parse_provider_id(provider_id) if provider_id is not None else None
        if host is not None and policy.allows(host):
            continue
        all_desired = index.all_desired(pod)
        pods[pod.spec.node_name] += any(
            provider_id is None or desired.identity_id is not None for desired in all_desired.values()
        )
    for name, count in pods.items():
        if name not in nodes:
            reason = "the cluster has no such node, so nothing is assigned to its pods"
        elif refusal := policy.refusal(parse_provider_id(nodes[name])):
            reason = cut(refusal)
        elif provider_id := nodes[name]:
            reason = f"its providerID {provider_id[:MESSAGE_MAX]!r} names no VM or scale set of Azure"
        else:
            reason = "it has no providerID, so its VM or scale set is not known"
        if count:
            yield _left("Node", ("", name), reason, count)


def _index(snapshot: Snapshot, *, force_namespaced: bool) -> BindingIndex:
    standing = (existing for existing in map(ExistingAssignment, snapshot.assigned) if not existing.terminating)
    return indexed(snapshot.identities, snapshot.bindings, standing, force_namespaced=force_namespaced)


def _left(kind: str, key: Key, reason: str, pods: int) -> LeftOut:
    return LeftOut(kind=kind, name="/".join(filter(None, key)), why=reason, pods=pods)
