"""Checks on identities, bindings, exceptions and what is assigned: what leads nowhere, twice, or not yet. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from mic.preview.left_out import left_out
from mic.preview.rehearsal import Snapshot
from podidctl.doctor.shapes import Finding, Level, counted, found, listed
from podidctl.doctor.state import Objects
from podidentity.resources import CREATED, MESSAGE_ANNOTATION, AzurePodIdentityException, BareMeta, Pod


def live(objects: Objects) -> list[Pod]:
    """Pods with a label that have not finished."""
    return [each for each in objects.pods if each.binding_label and not each.finished]


def nobody_can_use(objects: Objects, *, force_namespaced: bool) -> Iterator[Finding]:
    """Bindings without an identity, malformed identities, nodes without a host: as MIC judges them."""
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
        yield found("unusable", level, says, _cure(each.kind, each.name))
    if not faults:
        yield found("unusable", Level.OK, "every binding names an identity, and every identity can be used")


def _cure(kind: str, name: str) -> str:
    match kind:
        case "AzureIdentityBinding":
            return f"create that AzureIdentity in the same namespace, or correct spec.azureIdentity of binding {name}"
        case "AzureIdentity":
            namespace, _, bare = name.partition("/")
            return f"kubectl edit azureidentity -n {namespace} {bare}"
        case _:
            return f"see that node {name} is there and that its cloud provider sets spec.providerID"


def selectors(objects: Objects) -> Iterator[Finding]:
    """Bindings that select nobody, and pods that nothing selects."""
    pods = live(objects)
    labels = {each.binding_label for each in pods}
    idle = [each for each in objects.bindings if each.spec.selector not in labels]
    if idle:
        says = f"{counted(len(idle), 'binding selects', 'bindings select')} no pod that runs: " + listed(
            f"{'/'.join(each.key)} ({each.spec.selector!r})" for each in idle
        )
        then = "compare spec.selector with the pods' label aadpodidbinding, or leave it if its pods come and go"
        yield found("selectors", Level.WARNING, says, then)
    known = {each.spec.selector for each in objects.bindings}
    lost = [each for each in pods if each.binding_label not in known]
    if lost:
        says = f"{counted(len(lost), 'pod has', 'pods have')} a label that no binding selects: " + listed(
            f"{'/'.join(each.key)} ({each.binding_label!r})" for each in lost
        )
        yield found("selectors", Level.PROBLEM, says, "podidctl explain pod tells which binding was meant")
    if not idle and not lost:
        yield found("selectors", Level.OK, f"{counted(len(pods), 'pod')}, {counted(len(objects.bindings), 'binding')}")


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
        yield found("duplicates", Level.WARNING, f"{what} that say the same: {listed(names)}", then)
    if not twice:
        yield found("duplicates", Level.OK, "no binding and no identity is there twice")


def assignments(objects: Objects) -> Iterator[Finding]:
    """Assigned identities that are not on their hosts, with what MIC says of it."""
    created = [
        each for each in objects.assigned if each.status.status == CREATED and not each.metadata.deletion_timestamp
    ]
    notes = Counter(each.metadata.annotation(MESSAGE_ANNOTATION) for each in created)
    for note, count in notes.most_common():
        names = listed("/".join(each.key) for each in created if each.metadata.annotation(MESSAGE_ANNOTATION) == note)
        says = f"{counted(count, 'identity is', 'identities are')} Created and not Assigned: {names}"
        if note:
            yield found("assignments", Level.PROBLEM, f"{says}: {note}", note)
        else:
            yield found("assignments", Level.WARNING, says, "if it lasts for more than a minute, see MIC's log")
    if not created:
        served = sum(not each.metadata.deletion_timestamp for each in objects.assigned)
        yield found("assignments", Level.OK, f"{served} assigned")


def beside_nmi(objects: Objects) -> Iterator[Finding]:
    """Pods with a label that get the node's own identities: on the host's network, or under an exception."""
    host = [each for each in live(objects) if each.spec.host_network]
    if host:
        says = f"{counted(len(host), 'pod')} with a label on the host's network: " + listed(
            "/".join(each.key) for each in host
        )
        then = "take hostNetwork out of their spec: IMDS itself answers them, with the node's own identities"
        yield found("host network", Level.PROBLEM, says, then)
    under = [
        each for each in live(objects) if not each.spec.host_network and excepted(objects.exceptions, each.metadata)
    ]
    if under:
        says = f"{counted(len(under), 'pod')} with a label and under an exception, which wins: " + listed(
            "/".join(each.key) for each in under
        )
        yield found("exceptions", Level.WARNING, says, "take off the label that the exception names, or narrow it")
    elif objects.exceptions:
        count = counted(len(objects.exceptions), "exception")
        yield found("exceptions", Level.OK, f"{count}; no pod with a label is under one")


def excepted(exceptions: Iterable[AzurePodIdentityException], pod: BareMeta) -> bool:
    """Whether one of *exceptions* matches *pod*."""
    carried = {(key, value.lower()) for key, value in (pod.labels or {}).items()}
    return any(
        not carried.isdisjoint((key, value.lower()) for key, value in (each.spec.pod_labels or {}).items())
        for each in exceptions
        if each.metadata.namespace == pod.namespace
    )
