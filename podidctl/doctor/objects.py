"""Checks on identities, bindings and exceptions: what leads nowhere, or twice. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from nmi.refusal import Refusal
from nmi.settings import Settings
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE
from podidctl.diagnosis.gather import NO_NODE
from podidctl.diagnosis.input import NmiConfiguration
from podidctl.diagnosis.token_source import SIGN_IN_TYPES, describe_token_source, unknown_cloud_note
from podidctl.doctor.schema import Finding, Level, counted, listed, make_finding
from podidctl.doctor.state import Objects
from podidentity.resources import AzureIdentityBinding, Pod


def live_pods(objects: Objects) -> list[Pod]:
    """Pods with a label that have not finished."""
    return [each for each in objects.pods if each.binding_label and not each.finished]


def unusable_objects(
    objects: Objects, rules: Iterable[NmiConfiguration] = (), *, force_namespaced: bool
) -> Iterator[Finding]:
    """Bindings without an identity, malformed identities, nodes without a host: as MIC judges them.

    And service principals and federated identities that an NMI with these *rules* asks nobody for.
    """
    snapshot = Snapshot(
        pods=objects.pods,
        nodes=objects.nodes,
        identities=objects.identities,
        bindings=objects.bindings,
        assigned=objects.assigned,
    )
    faults = left_out(snapshot, force_namespaced=force_namespaced)
    for each in faults:
        level = Level.PROBLEM if each.pods else Level.WARNING
        says = f"{each.kind} {each.name} ({counted(each.pods, 'pod')}): {each.why}"
        yield make_finding("unusable", level, says, _correction(each.kind, each.name))
    refused = list(_principals(objects, list(rules)))
    yield from refused
    if not faults and not refused:
        yield make_finding("unusable", Level.OK, "every binding names an identity, and every identity can be used")


def _principals(objects: Objects, rules: Sequence[NmiConfiguration]) -> Iterator[Finding]:
    # Of all the NMIs of a cluster few differ in what decides here.
    distinct = {
        (each.settings.allowed_ad_endpoints, each.settings.allow_cross_namespace_secrets, each.cloud_file): each
        for each in rules or [NmiConfiguration(Settings(node_name=NO_NODE), "NMI's defaults")]
    }
    labels = Counter(each.binding_label for each in live_pods(objects))
    selectors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in objects.bindings:
        selectors[binding.metadata.namespace, binding.spec.azure_identity].add(binding.spec.selector)
    for identity in objects.identities:
        if identity.spec.type not in SIGN_IN_TYPES:
            continue
        for each in distinct.values():
            # Whether NMI serves type 3 at all is told once, and not by each identity.
            refusal = describe_token_source(
                replace(each.settings, federated_identities=True), identity, MANAGEMENT_RESOURCE
            )
            if isinstance(refusal, Refusal):
                pods = sum(labels[one] for one in selectors[identity.key])
                says = f"AzureIdentity {'/'.join(identity.key)} ({counted(pods, 'pod')}): {refusal.sentence}"
                then = "; ".join(filter(None, (refusal.detail, unknown_cloud_note(each, identity))))
                yield make_finding("unusable", Level.PROBLEM if pods else Level.WARNING, says, then)
                break


def _correction(kind: str, name: str) -> str:
    match kind:
        case "AzureIdentityBinding":
            return f"create that AzureIdentity in the same namespace, or correct spec.azureIdentity of binding {name}"
        case "AzureIdentity":
            namespace, _, bare = name.partition("/")
            return f"kubectl edit azureidentity -n {namespace} {bare}"
        case _:
            return f"see that node {name} is there and that its cloud provider sets spec.providerID"


def selectors(objects: Objects, *, namespaced: bool = False) -> Iterator[Finding]:
    """Bindings that select nobody, and pods that nothing selects. *namespaced*: all are for their own namespace."""
    pods = live_pods(objects)
    labels = {each.binding_label for each in pods}
    idle = [each for each in objects.bindings if each.spec.selector not in labels]
    if idle:
        says = f"{counted(len(idle), 'binding selects', 'bindings select')} no pod that runs: " + listed(
            f"{'/'.join(each.key)} ({each.spec.selector!r})" for each in idle
        )
        then = "compare spec.selector with the pods' label aadpodidbinding, or leave it if its pods come and go"
        yield make_finding("selectors", Level.WARNING, says, then)
    lost, others = _unserved(objects, pods, namespaced=namespaced)
    if lost:
        says = f"{counted(len(lost), 'pod has', 'pods have')} a label that no binding selects: " + _labels(lost)
        yield make_finding("selectors", Level.PROBLEM, says, "podidctl explain pod tells which binding was meant")
    if others:
        says = (
            f"{counted(len(others), 'pod has', 'pods have')} a label that only bindings of other namespaces select, "
            f"which are for their own: {_labels(others)}"
        )
        then = "create AzureIdentity and AzureIdentityBinding in the pods' namespace; podidctl explain pod tells more"
        yield make_finding("selectors", Level.PROBLEM, says, then)
    if not idle and not lost and not others:
        yield make_finding(
            "selectors", Level.OK, f"{counted(len(pods), 'pod')}, {counted(len(objects.bindings), 'binding')}"
        )


def by_selector(objects: Objects) -> dict[str, list[AzureIdentityBinding]]:
    """The bindings by what they select."""
    found: defaultdict[str, list[AzureIdentityBinding]] = defaultdict(list)
    for binding in objects.bindings:
        found[binding.spec.selector].append(binding)
    return dict(found)


def _unserved(objects: Objects, pods: Iterable[Pod], *, namespaced: bool) -> tuple[list[Pod], list[Pod]]:
    """Pods that no binding selects, and pods that are selected only by what is for other namespaces."""
    bindings, lost, others = by_selector(objects), [], []
    keeping = {each.key for each in objects.identities if each.namespaced}
    for pod in pods:
        selecting = bindings.get(pod.binding_label, ())
        if not selecting:
            lost.append(pod)
        elif not any(
            each.metadata.namespace == pod.metadata.namespace
            or not (namespaced or (each.metadata.namespace, each.spec.azure_identity) in keeping)
            for each in selecting
        ):
            others.append(pod)
    return lost, others


def _labels(pods: Iterable[Pod]) -> str:
    return listed(f"{'/'.join(each.key)} ({each.binding_label!r})" for each in pods)


def duplicates(objects: Objects) -> Iterator[Finding]:
    """Bindings that say the same, and identities of one namespace that are the same on Azure."""
    bindings: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for binding in objects.bindings:
        bindings[binding.metadata.namespace, binding.spec.selector, binding.spec.azure_identity].append(
            "/".join(binding.key)
        )
    identities: defaultdict[tuple[str, int, str], list[str]] = defaultdict(list)
    for identity in objects.identities:
        spec = identity.spec
        meant = spec.resource_id.lower() if spec.type == 0 else spec.client_id.lower()
        if meant:
            identities[identity.metadata.namespace, spec.type, meant].append("/".join(identity.key))
    twice = [("bindings", names) for names in bindings.values() if len(names) > 1]
    twice += [("identities", names) for names in identities.values() if len(names) > 1]
    for what, names in twice:
        then = "delete all but one, so that taking it away takes it away"
        yield make_finding("duplicates", Level.WARNING, f"{what} that say the same: {listed(names)}", then)
    if not twice:
        yield make_finding("duplicates", Level.OK, "no binding and no identity is there twice")


def not_served_by_nmi(objects: Objects, exempt: Callable[[Pod], str]) -> Iterator[Finding]:
    """Pods with a label that get the node's own identities: on the host's network, or under an exception."""
    host = [each for each in live_pods(objects) if each.spec.host_network]
    if host:
        says = f"{counted(len(host), 'pod')} with a label on the host's network: " + listed(
            "/".join(each.key) for each in host
        )
        then = "take hostNetwork out of their spec: IMDS itself answers them, with the node's own identities"
        yield make_finding("host network", Level.PROBLEM, says, then)
    under = [each for each in live_pods(objects) if not each.spec.host_network and exempt(each)]
    if under:
        says = f"{counted(len(under), 'pod')} with a label and under an exception, which wins: " + listed(
            "/".join(each.key) for each in under
        )
        yield make_finding(
            "exceptions", Level.WARNING, says, "take off the label that the exception names, or narrow it"
        )
    elif objects.exceptions:
        count = counted(len(objects.exceptions), "exception")
        yield make_finding("exceptions", Level.OK, f"{count}; no pod with a label is under one")
