"""Checks of identities, bindings and exceptions: unusable and duplicate objects. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec.structs import replace

from mic.decisions.policy import Policy
from mic.preview.dry_run import Snapshot
from mic.preview.left_out import left_out
from nmi.refusal import Refusal
from nmi.settings import Settings
from podidctl.diagnosis.decision import MANAGEMENT_RESOURCE
from podidctl.diagnosis.gather import NO_NODE
from podidctl.diagnosis.input import NmiConfiguration
from podidctl.diagnosis.node_placement import MissingNmi, missing_nmi
from podidctl.diagnosis.token_source import SIGN_IN_TYPES, describe_token_source, unknown_cloud_note
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Objects
from podidctl.fair_order import by_turns, namespace_of
from podidctl.printing import listed
from podidentity.report import counted
from podidentity.resources import Pod


def live_pods(objects: Objects) -> list[Pod]:
    """Return the labelled pods that have not ended."""
    return [each for each in objects.pods if each.binding_label and not each.finished]


def unusable_objects(
    objects: Objects, rules: Iterable[NmiConfiguration] = (), *, policy: Policy, force_namespaced: bool
) -> Iterator[Finding]:
    """Report bindings without an identity, invalid identities and nodes without a host that MIC may change, by MIC's
    own rules and *policy*.

    Also report service principals and federated identities that an NMI with these *rules* refuses to sign in.
    """
    snapshot = Snapshot(
        pods=objects.pods,
        nodes=objects.nodes,
        identities=objects.identities,
        bindings=objects.bindings,
        assigned=objects.assigned,
    )
    faults = left_out(snapshot, policy, force_namespaced=force_namespaced)
    for each in by_turns(faults, lambda fault: (fault.kind, namespace_of(fault.name))):
        level = Level.PROBLEM if each.pods else Level.WARNING
        says = f"{each.kind} {each.name} ({counted(each.pods, 'pod')}): {each.why}"
        yield make_finding("unusable", level, says, _correction(each.kind, each.name))
    refused = list(_principals(objects, list(rules)))
    yield from refused
    if not faults and not refused:
        yield make_finding("unusable", Level.OK, "every binding names an identity, and every identity can be used")


def _principals(objects: Objects, rules: Sequence[NmiConfiguration]) -> Iterator[Finding]:
    # Few NMIs of a cluster differ in these settings.
    distinct = {
        (each.settings.allowed_ad_endpoints, each.settings.allow_cross_namespace_secrets, each.cloud_file): each
        for each in rules or [NmiConfiguration(Settings(node_name=NO_NODE), "NMI's defaults")]
    }
    labels = Counter(each.binding_label for each in live_pods(objects))
    selectors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in objects.bindings:
        selectors[binding.metadata.namespace, binding.spec.azure_identity].add(binding.spec.selector)
    sign_ins = [each for each in objects.identities if each.spec.type in SIGN_IN_TYPES]
    for identity in by_turns(sign_ins, lambda each: each.metadata.namespace):
        for each in distinct.values():
            # Another check reports once that NMI does not serve type 3.
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
            return (
                f"check that node {name} exists, that its cloud provider sets spec.providerID, and that MIC's "
                "--allowed-resource-groups, if any, names the group of its VM"
            )


def selectors(objects: Objects, *, namespaced: bool = False) -> Iterator[Finding]:
    """Report bindings that select no pod, and pods that no binding selects. *namespaced*: bindings serve their own
    namespace.
    """
    pods = live_pods(objects)
    labels = {each.binding_label for each in pods}
    idle = [each for each in objects.bindings if each.spec.selector not in labels]
    if idle:
        says = f"{counted(len(idle), 'binding selects', 'bindings select')} no running pod: " + listed(
            f"{'/'.join(each.key)} ({each.spec.selector!r})" for each in idle
        )
        then = "compare spec.selector with the pods' label aadpodidbinding; no action if these pods run only at times"
        yield make_finding("selectors", Level.WARNING, says, then)
    lost, others = _unserved(objects, pods, namespaced=namespaced)
    if lost:
        says = f"{counted(len(lost), 'pod has', 'pods have')} a label that no binding selects: " + _labels(lost)
        yield make_finding(
            "selectors", Level.PROBLEM, says, ("podidctl explain pod shows bindings with a similar selector")
        )
    if others:
        says = (
            f"{counted(len(others), 'pod has', 'pods have')} a label that only bindings of other namespaces select, "
            f"which serve only their own: {_labels(others)}"
        )
        then = "create AzureIdentity and AzureIdentityBinding in the pods' namespace; podidctl explain pod shows more"
        yield make_finding("selectors", Level.PROBLEM, says, then)
    if not idle and not lost and not others:
        yield make_finding(
            "selectors", Level.OK, f"{counted(len(pods), 'pod')}, {counted(len(objects.bindings), 'binding')}"
        )


def _unserved(objects: Objects, pods: Iterable[Pod], *, namespaced: bool) -> tuple[list[Pod], list[Pod]]:
    """Return the pods that no binding selects, and the pods that only bindings of other namespaces select."""
    # By selector: a tenant can create thousands of bindings with the selector of other tenants' pods.
    served: defaultdict[str, set[str]] = defaultdict(set)
    everywhere: set[str] = set()
    keeping = {each.key for each in objects.identities if each.namespaced}
    for binding in objects.bindings:
        spec, namespace = binding.spec, binding.metadata.namespace
        served[spec.selector].add(namespace)
        if not namespaced and (namespace, spec.azure_identity) not in keeping:
            everywhere.add(spec.selector)
    lost, others = [], []
    for pod in pods:
        label = pod.binding_label
        if label not in served:
            lost.append(pod)
        elif label not in everywhere and pod.metadata.namespace not in served[label]:
            others.append(pod)
    return lost, others


def _labels(pods: Iterable[Pod]) -> str:
    return listed(f"{'/'.join(each.key)} ({each.binding_label!r})" for each in pods)


def duplicates(objects: Objects) -> Iterator[Finding]:
    """Report equal bindings, and identities of one namespace that are the same on Azure."""
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
    for what, names in by_turns(twice, lambda each: (each[0], namespace_of(each[1][0]))):
        then = "delete all but one, so that deleting the last one revokes the access"
        yield make_finding("duplicates", Level.WARNING, f"duplicate {what}: {listed(names)}", then)
    if not twice:
        yield make_finding("duplicates", Level.OK, "there are no duplicate bindings or identities")


def not_served_by_nmi(objects: Objects, exempt: Callable[[Pod], str]) -> Iterator[Finding]:
    """Report labelled pods that NMI does not serve: on a node where it cannot run, on the host's network, or under an
    exception.
    """
    yield from _on_unsupported_nodes(objects)
    host = [each for each in live_pods(objects) if each.spec.host_network]
    if host:
        says = f"{counted(len(host), 'pod')} with a label on the host's network: " + listed(
            "/".join(each.key) for each in host
        )
        then = "remove hostNetwork from their spec: IMDS responds to them with the node's own identities"
        yield make_finding("host network", Level.PROBLEM, says, then)
    under = [each for each in live_pods(objects) if not each.spec.host_network and exempt(each)]
    if under:
        says = f"{counted(len(under), 'pod')} with a label and under an exception, which takes precedence: " + listed(
            "/".join(each.key) for each in under
        )
        yield make_finding(
            "exceptions", Level.WARNING, says, "remove the exception's label from these pods, or narrow the exception"
        )
    elif objects.exceptions:
        count = counted(len(objects.exceptions), "exception")
        yield make_finding("exceptions", Level.OK, f"{count}; no labelled pod is under one")


def _on_unsupported_nodes(objects: Objects) -> Iterator[Finding]:
    nodes = {each.metadata.name: each for each in objects.nodes if not each.can_run_nmi}
    by_cause: defaultdict[MissingNmi, list[str]] = defaultdict(list)
    for pod in live_pods(objects):
        if (node := nodes.get(pod.spec.node_name)) is not None:
            by_cause[missing_nmi(node, ())].append("/".join(pod.key))
    for missing, pods in by_cause.items():
        labelled = f"{counted(len(pods), 'pod')} with a label, which NMI does not serve"
        says = f"{labelled}: {missing.why}, so {missing.effect}: {listed(pods)}"
        yield make_finding("NMI", Level.PROBLEM, says, missing.then)
