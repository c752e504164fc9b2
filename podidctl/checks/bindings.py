"""Checks of the bindings and identities: those of one pod, and unusable and duplicate ones. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from mic.decisions.assignments import misconfigured
from nmi.identity.managed_mode import join
from nmi.refusal import Refusal
from nmi.settings import NmiSettings
from podidctl.checks.assignments import assignment_link, served_link, unbound_assignment_link
from podidctl.checks.dependence import for_the_pod
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.needs import live_pods
from podidctl.evaluation.pod import (
    CLIENT_ID_VARIABLE,
    MANAGEMENT_RESOURCE,
    NAME_ONE,
    Candidate,
    PodCase,
    sets_client_id,
)
from podidctl.evaluation.similar_texts import similar_texts
from podidctl.evaluation.tokens import SIGN_IN_TYPES, TYPE_NAMES, describe_token_source, unknown_cloud_note
from podidctl.facts.model import Facts, IdentityKey, NmiConfiguration, ObjectReference, ReadFailure
from podidctl.facts.settings import NO_NODE, mic_policy
from podidctl.report.documents import Outcome
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import by_turns, grouped, listed, namespace_of
from podidentity.kube.ignored_fields import REMEDY
from podidentity.report import counted
from podidentity.resources import (
    BINDINGS,
    IDENTITIES,
    AzureIdentity,
    AzureIdentityBinding,
    IdentityType,
    Kind,
    Meta,
    Pod,
)

SELECTORS: Final = frozenset({"spec", "spec.selector"})
"""Ignored fields, in lower case, with which a binding has no selector."""
BY_MIC: Final = " (by MIC once its type upgrade is recorded, unless it runs with --read-old-field-names)"


SIMILAR_MAX: Final = 3
Case = PodCase | ClusterCase


def ignored_fields(case: Case, kind: Kind[Any], key: tuple[str, str]) -> str:
    """Return the ignored fields of one object; empty if there are none."""
    return ", ".join(case.facts.ignored_fields.get(ObjectReference(kind.plural, *key), ()))


def ignored_in_namespace(case: PodCase, kind: Kind[Any]) -> str:
    """Return the objects of *kind* in the pod's namespace with ignored fields; empty if there are none."""
    return listed(
        _with_fields(namespace, name, fields)
        for (plural, namespace, name), fields in case.facts.ignored_fields.items()
        if (plural, namespace) == (kind.plural, case.namespace)
    )


def ignored_selectors(case: PodCase) -> str:
    """Return the bindings that could select the pod but have no selector, because it is ignored, those of the pod's
    namespace first; empty if there are none.
    """
    own: list[str] = []
    others: list[str] = []
    for binding in case.eligible_bindings:
        fields = case.facts.ignored_fields.get(ObjectReference(BINDINGS.plural, *binding.key), ())
        if binding.spec.selector or case.restriction(binding):
            continue
        if not SELECTORS.isdisjoint(field.lower() for field in fields):
            (own if binding.metadata.namespace == case.namespace else others).append(_with_fields(*binding.key, fields))
    return ", ".join(filter(None, (listed(own), listed(others))))


def _with_fields(namespace: str, name: str, fields: Sequence[str]) -> str:
    return f"{namespace}/{name} ({', '.join(fields)})"


def ignored_reason(named: str, *, by_mic: bool = False) -> str:
    """Return the statement about the ignored fields *named*. *by_mic*: whether MIC decides by them, whose flags and
    record the command does not read.
    """
    return f"fields spelled as before v1.6.0 are ignored{BY_MIC if by_mic else ''}: {named}"


def correct(about: str) -> str:
    """Return the next action for an object with ignored fields."""
    return f"correct the fields of {about}: {REMEDY}"


def binding_links(case: PodCase) -> Iterator[Finding]:
    """Yield the links of the bindings, of the identity of each, and of their assignments."""
    if case.pod.binding_label and not case.candidates:
        yield _no_binding(case)
    # A binding of another team is not a fault unless the pod has no other.
    others_are_well = (
        not all(candidate.restriction for candidate in case.candidates) or case.decision.outcome is Outcome.GRANTED
    )
    seen: set[IdentityKey] = set()
    namespaces = namespaces_by_name(case)
    for candidate in case.candidates:
        binding, _, restriction = candidate
        if restriction and others_are_well:
            message = f"it does not serve this namespace: {restriction}"
            yield ok("binding", message, about="/".join(binding.key))
            continue
        key = (binding.metadata.namespace, binding.spec.azure_identity)
        for link in _candidate_links(case, candidate, seen, namespaces):
            yield for_the_pod(case, key, link)
    for assigned in case.facts.assigned if not case.managed else ():
        if (key := assigned.spec.azure_identity_ref.key) not in seen:
            yield for_the_pod(case, key, unbound_assignment_link(case, assigned))


def _candidate_links(
    case: PodCase, candidate: Candidate, seen: set[IdentityKey], namespaces: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """Yield the links of a binding, and of its identity if it is not one of *seen*, to which it is added."""
    binding, identity, restriction = candidate
    message = f"its selector matches the pod's label; it names {binding.spec.azure_identity or 'no AzureIdentity'}"
    if binding.metadata.namespace != case.namespace:
        message += "; it is of another namespace, whose authors give the pod this identity"
    yield binding_link(case, binding, message)
    key = (binding.metadata.namespace, binding.spec.azure_identity)
    # Another binding of the same identity: its links are already there.
    if key in seen:
        return
    yield named_identity_link(case, candidate, namespaces)
    if identity is not None and case.managed:
        joined = join(binding, identity)
        yield served_link(case, "/".join(binding.key), joined, well="bound, in the same namespace")
    elif identity is not None and not restriction and not misconfigured(identity):
        seen.add(key)
        yield assignment_link(case, identity)


def choice_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of the choice between several identities, for a request that names none."""
    keys = {identity.key for identity in case.bound}
    keys |= {assignment.identity.key for assignment in case.assignments if case.serves(assignment)}
    if len(keys) < 2:
        return
    several = listed("/".join(key) for key in keys)
    decision = case.decision
    gets = "waits until one is assigned"
    if decision.assigned is not None:
        gets = f"gets {'/'.join(decision.assigned.identity.key)}"
    elif decision.outcome is not Outcome.WAITS:
        return
    message = f"a request that names none {gets}"
    if sets_client_id(case.pod):
        yield ok("choice", f"a container sets {CLIENT_ID_VARIABLE}; {message}", about=several)
    else:
        yield unknown("choice", message, NAME_ONE, about=several)


def _no_binding(case: PodCase) -> Finding:
    there, label = case.eligible_bindings, case.pod.binding_label
    similar = similar_texts(label, {binding.spec.selector for binding in there})[:SIMILAR_MAX]
    selectors = {binding.spec.selector: binding for binding in there}
    near = [f"{'/'.join(selectors[text].key)} selects {text!r}" for text in similar]
    where = f"of namespace {case.namespace} (managed mode) " if case.managed else ""
    message = f"no AzureIdentityBinding {where}has selector {label!r}"
    then: list[str] = []
    if near:
        message += f"; {'; '.join(near)}"
        then.append(f"set spec.selector of the binding or the pod's label to the same value: {'; '.join(near)}")
    if ignored := ignored_selectors(case):
        message += f"; {ignored_reason(ignored, by_mic=not case.managed)}"
        then.append(correct("the binding that is to select this pod"))
    if not then:
        then.append(
            f"create an AzureIdentityBinding with spec.selector {label!r} in the namespace of the AzureIdentity"
        )
    return problem("binding", message, "; or ".join(then), about="none")


def binding_link(case: Case, binding: AzureIdentityBinding, message: str) -> Finding:
    """Return the link of a binding that selects pods, as *message* states, with its ignored fields and its deletion."""
    about = "/".join(binding.key)
    if ignored := ignored_fields(case, BINDINGS, binding.key):
        message += f"; {ignored_reason(ignored, by_mic=not case.managed)}"
    if binding.metadata.deletion_timestamp is None:
        return ok("binding", message, about=about)
    if case.managed:
        then = (
            "wait until it is deleted and create it again: in managed mode a binding has no effect while it is being "
            "deleted"
        )
        return problem("binding", "it is being deleted", then, about=about)
    return ok("binding", f"{message}; {_deletion_note(binding.metadata)}", about=about)


def _deletion_note(meta: Meta) -> str:
    """Return the note for an operator who revokes access in standard mode, where MIC acts only when an object is
    deleted.
    """
    finalizers = ", ".join(meta.finalizers or ())
    return (
        "it is being deleted, and pods keep its access until the deletion is complete, which requires its finalizers "
        f"{f'({finalizers}) ' if finalizers else ''}to be removed"
    )


def namespaces_by_name(case: Case) -> Mapping[str, Sequence[str]]:
    """Return the namespaces of the AzureIdentities of each name."""
    return grouped((identity.metadata.name, identity.metadata.namespace) for identity in case.facts.identities)


def named_identity_link(case: Case, candidate: Candidate, namespaces: Mapping[str, Sequence[str]]) -> Finding:
    """Return the link of the identity that the candidate's binding names. *namespaces*: as of `namespaces_by_name`."""
    binding, identity, restriction = candidate
    namespace, name = binding.metadata.namespace, binding.spec.azure_identity
    about = f"{namespace}/{name}"
    if not name:
        key = "/".join(binding.key)
        then = f"set spec.azureIdentity of binding {key}"
        if ignored_fields(case, BINDINGS, binding.key):
            then = correct(f"AzureIdentityBinding {key}")
        return problem("identity", f"binding {key} names no AzureIdentity", then, about="none")
    if identity is None:
        namesakes = sorted(namespaces.get(name, ()))
        hint = f"; one of that name exists in {', '.join(namesakes[:SIMILAR_MAX])}" if namesakes else ""
        then = (
            f"create AzureIdentity {name} in namespace {namespace}, or correct spec.azureIdentity of binding "
            f"{'/'.join(binding.key)}; a binding finds only identities of its own namespace"
        )
        if isinstance(case, PodCase) and case.namespace != namespace:
            then = (
                f"create an AzureIdentity and its binding in namespace {case.namespace}, or let the authors of binding "
                f"{'/'.join(binding.key)} correct it"
            )
        return problem("identity", f"this AzureIdentity does not exist{hint}", then, about=about)
    return identity_link(case, identity, restriction)


def identity_link(case: Case, identity: AzureIdentity, restriction: str = "") -> Finding:
    """Return the link of an identity that exists. *restriction*: as of the candidate."""
    about = "/".join(identity.key)
    deleting = identity.metadata.deletion_timestamp is not None
    if deleting and case.managed:
        return problem("identity", "it is being deleted", "wait until it is deleted and create it again", about=about)
    ignored = ignored_fields(case, IDENTITIES, identity.key)
    note = f"; {ignored_reason(ignored, by_mic=not case.managed)}" if ignored else ""
    if not case.managed and (reason := misconfigured(identity)):
        then = correct(f"AzureIdentity {about}") if ignored else f"correct AzureIdentity {about} with kubectl edit"
        return problem("identity", f"{reason}{note}", then, about=about)
    if restriction:
        then = "move the AzureIdentity and its binding, or the pod"
        return problem("identity", restriction, then, about=about)
    spec = identity.spec
    kind = TYPE_NAMES.get(spec.type, "unknown type")
    client = f", client id {spec.client_id}" if spec.client_id else ""
    still = f"; {_deletion_note(identity.metadata)}" if deleting else ""
    return ok("identity", f"{kind} (type {spec.type}){client}{still}{note}", about=about)


def check_unusable_objects(case: ClusterCase) -> Iterator[Finding]:
    """Report bindings without an identity, invalid identities and nodes without a host that MIC may change, by MIC's
    own rules.

    Also report service principals and federated identities that an NMI refuses to sign in.
    """
    # explain imports this module, too, and needs none of MIC's preview.
    from mic.preview.dry_run import Snapshot  # noqa: PLC0415  see above
    from mic.preview.left_out import left_out  # noqa: PLC0415  see above

    objects = case.objects
    snapshot = Snapshot(
        pods=objects.pods,
        nodes=objects.nodes,
        identities=objects.identities,
        bindings=objects.bindings,
        assigned=objects.assigned,
    )
    faults = left_out(snapshot, mic_policy(case.mic), force_namespaced=case.namespaced)
    for fault in by_turns(faults, lambda fault: (fault.kind, namespace_of(fault.name))):
        level = Level.PROBLEM if fault.pods else Level.WARNING
        message = f"{fault.kind} {fault.name} ({counted(fault.pods, 'pod')}): {fault.why}"
        yield Finding("unusable", level, message, _correction(fault.kind, fault.name))
    refused = list(_principals(objects, case.configurations))
    yield from refused
    if not faults and not refused:
        yield ok("unusable", "every binding names an identity, and every identity can be used")


def _principals(objects: Facts, rules: Sequence[NmiConfiguration]) -> Iterator[Finding]:
    # Few NMIs of a cluster differ in these settings.
    distinct = {
        (
            configuration.settings.allowed_ad_endpoints,
            configuration.settings.allow_cross_namespace_secrets,
            configuration.cloud_file,
        ): configuration
        for configuration in rules or [NmiConfiguration(NmiSettings(node_name=NO_NODE), "NMI's defaults")]
    }
    labels = Counter(pod.binding_label for pod in live_pods(objects))
    selectors: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for binding in objects.bindings:
        selectors[binding.metadata.namespace, binding.spec.azure_identity].add(binding.spec.selector)
    sign_ins = [identity for identity in objects.identities if identity.spec.type in SIGN_IN_TYPES]
    for identity in by_turns(sign_ins, lambda identity: identity.metadata.namespace):
        for configuration in distinct.values():
            # Another check reports once that NMI does not serve type 3.
            refusal = describe_token_source(
                replace(configuration.settings, federated_identities=True), identity, MANAGEMENT_RESOURCE
            )
            if isinstance(refusal, Refusal):
                pods = sum(labels[selector] for selector in selectors[identity.key])
                message = f"AzureIdentity {'/'.join(identity.key)} ({counted(pods, 'pod')}): {refusal.sentence}"
                then = "; ".join(filter(None, (refusal.detail, unknown_cloud_note(configuration, identity))))
                yield Finding("unusable", Level.PROBLEM if pods else Level.WARNING, message, then)
                # One finding for each identity, even if several NMIs refuse it.
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


def check_selectors(case: ClusterCase) -> Iterator[Finding]:
    """Report bindings that select no pod, and pods that no binding selects."""
    objects = case.objects
    pods = live_pods(objects)
    labels = {pod.binding_label for pod in pods}
    idle = [binding for binding in objects.bindings if binding.spec.selector not in labels]
    if idle:
        message = f"{counted(len(idle), 'binding selects', 'bindings select')} no running pod: " + listed(
            f"{'/'.join(binding.key)} ({binding.spec.selector!r})" for binding in idle
        )
        then = "compare spec.selector with the pods' label aadpodidbinding; no action if these pods run only at times"
        # A pod may have the selector as the value of a misspelled label.
        meant = {} if isinstance(objects.mislabelled, ReadFailure) else objects.mislabelled
        explained = {binding.spec.selector for binding in idle} <= {label.value for label in meant.values()}
        yield warning("selectors", message, then, cause="labels" if explained else "")
    lost, others = _unserved(objects, pods, namespaced=case.namespaced)
    if lost:
        message = f"{counted(len(lost), 'pod has', 'pods have')} a label that no binding selects: " + _labels(lost)
        then = "podidctl explain pod shows bindings with a similar selector"
        yield problem("selectors", message, then, cause="selectors")
    if others:
        message = (
            f"{counted(len(others), 'pod has', 'pods have')} a label that only bindings of other namespaces select, "
            f"which serve only their own: {_labels(others)}"
        )
        then = "create AzureIdentity and AzureIdentityBinding in the pods' namespace; podidctl explain pod shows more"
        yield problem("selectors", message, then)
    if not idle and not lost and not others:
        yield ok("selectors", f"{counted(len(pods), 'pod')}, {counted(len(objects.bindings), 'binding')}")


def _unserved(objects: Facts, pods: Iterable[Pod], *, namespaced: bool) -> tuple[list[Pod], list[Pod]]:
    """Return the pods that no binding selects, and the pods that only bindings of other namespaces select."""
    # By selector: a tenant can create thousands of bindings with the selector of other tenants' pods.
    served: defaultdict[str, set[str]] = defaultdict(set)
    everywhere: set[str] = set()
    keeping = {identity.key for identity in objects.identities if identity.namespaced}
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
    return listed(f"{'/'.join(pod.key)} ({pod.binding_label!r})" for pod in pods)


def _azure_identity(identity: AzureIdentity) -> str:
    """Return the id on Azure that *identity* names; empty if it names none."""
    is_user_assigned = identity.spec.type == IdentityType.USER_ASSIGNED
    return (identity.spec.resource_id if is_user_assigned else identity.spec.client_id).lower()


def check_duplicates(case: ClusterCase) -> Iterator[Finding]:
    """Report equal bindings, and identities of one namespace that are the same on Azure."""
    objects = case.objects
    bindings = grouped(
        ((binding.metadata.namespace, binding.spec.selector, binding.spec.azure_identity), "/".join(binding.key))
        for binding in objects.bindings
    )
    identities = grouped(
        ((identity.metadata.namespace, identity.spec.type, meant), "/".join(identity.key))
        for identity in objects.identities
        if (meant := _azure_identity(identity))
    )
    twice = [("bindings", names) for names in bindings.values() if len(names) > 1]
    twice += [("identities", names) for names in identities.values() if len(names) > 1]
    for what, names in by_turns(twice, lambda item: (item[0], namespace_of(item[1][0]))):
        then = "delete all but one, so that deleting the last one revokes the access"
        yield warning("duplicates", f"duplicate {what}: {listed(names)}", then)
    if not twice:
        yield ok("duplicates", "there are no duplicate bindings or identities")


POD_CHECKS: Final = (binding_links, choice_links)
CHECKS: Final = (check_unusable_objects, check_selectors, check_duplicates)
