"""Checks of pods: state, address, exceptions, label, and the choice between several identities. Pure."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from mic.cluster.bindings import embedded_bindings
from mic.decisions.assignments import DesiredAssignment
from nmi.identity.decide import MIRROR_POD
from nmi.identity.exemptions import MIC
from nmi.identity.pods import own_addresses
from podidctl.checks.bindings import correct, ignored_in_namespace, ignored_reason
from podidctl.evaluation.cluster import ClusterCase, in_nmis_order
from podidctl.evaluation.needs import live_pods
from podidctl.evaluation.pod import CLIENT_ID_VARIABLE, FOREIGN_ADVICE, NAME_ONE, PodCase, sets_client_id
from podidctl.evaluation.similar_texts import meant_as_label, similar_texts
from podidctl.facts.workloads import CRON_JOBS, JOBS, Owner
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import grouped, listed, namespace_of
from podidentity.report import counted
from podidentity.resources import BINDING_LABEL, EXCEPTIONS, Pod

IDENTITIES_MAX: Final = 2
"""Identities that are named for each pod."""


def no_pod(namespace: str, name: str) -> Finding:
    """Return the finding about a pod that does not exist."""
    then = f"check the name with kubectl get pods -n {namespace}, and pass the pod's namespace"
    return problem("pod", "this pod does not exist", then, about=f"{namespace}/{name}")


def pod_state(case: PodCase) -> Finding:
    """Return the finding about the pod's phase and node."""
    about = "/".join(case.pod.key)
    describe = _describe(case.pod)
    if case.pod.finished:
        then = "choose a running pod: NMI does not serve ended pods, because another pod may have their address"
        return problem("pod", f"it has ended (phase {case.pod.status.phase})", then, about=about)
    if not case.pod.spec.node_name:
        then = f"{describe} for the reason why it is not scheduled"
        return problem(
            "pod", f"it is not scheduled to a node yet ({case.pod.status.phase or 'Pending'})", then, about=about
        )
    if case.pod.terminated:
        then = f"{describe} for the reason why they ended"
        reason = "all its containers have terminated, so NMI gives it no tokens until one runs"
        return problem("pod", reason, then, about=about)
    # Not a fault: NMI serves a terminating pod until it ends.
    ending = ", and is terminating" if case.pod.ending else ""
    return ok("pod", f"{case.pod.status.phase or 'Pending'} on node {case.pod.spec.node_name}{ending}", about=about)


def _describe(pod: Pod) -> str:
    return f"see kubectl describe pod -n {pod.metadata.namespace} {pod.metadata.name}"


def pod_address(case: PodCase) -> Finding:
    """Return the finding about the addresses by which NMI recognizes the pod."""
    addresses, its = own_addresses(case.pod), case.addresses
    # First: NMI may recognize the pod by its address, but gives it no tokens.
    if case.pod.sandbox_down and addresses:
        reason = "the kubelet reports that the pod's sandbox is not ready, so NMI gives its address no tokens"
        then = f"{_describe(case.pod)} for the reason why its sandbox is not ready"
        return problem("address", reason, then, about=", ".join(addresses))
    if its:
        lost = "; ".join(case.address_conflict(address)[0] for address in addresses if address not in its)
        return ok("address", "; ".join(filter(None, ("NMI recognizes the pod by it", lost))), about=", ".join(its))
    reason = case.no_address
    if case.pod.spec.host_network:
        then = "remove hostNetwork from the pod's spec; on the host's network it gets the node's own identities"
    elif not addresses:
        then = "wait until the kubelet has set up its network; kubectl describe pod shows the progress"
    else:
        _, then = case.address_conflict(addresses[0])
    return problem("address", reason, then, about=", ".join(addresses) or "none")


def pod_exception(case: PodCase) -> Finding:
    """Return the finding about the exceptions, of which one may exempt the pod."""
    exempt = case.exempt
    if exempt == MIC:
        return ok("exception", "it is one of MIC's own pods, so IMDS must respond to it", about="MIC")
    if exempt:
        about = exempt.removeprefix("exception ")
        message = "NMI forwards its requests to IMDS, for the node's own identities"
        if not case.pod.binding_label:
            return ok("exception", message, about=about)
        then = (
            f"the pod has the label aadpodidbinding={case.pod.binding_label}, which has no effect while this exception "
            f"matches: remove the exception's label from the pod, or narrow AzurePodIdentityException {about}"
        )
        return problem("exception", f"{message}; bindings have no effect", then, about=about)
    if near := _near_exception(case):
        return near
    count = len(case.facts.exceptions)
    message = f"none of {count} in its namespace matches" if count else "its namespace has none"
    if ignored := ignored_in_namespace(case, EXCEPTIONS):
        state, then = Level.OK, ""
        if not case.pod.binding_label:  # it may need such an exception
            state, then = Level.UNKNOWN, correct("the exception that is to match this pod")
        return Finding("exception", state, f"{message}; {ignored_reason(ignored)}", then, about="none")
    return ok("exception", message, about="none")


def _near_exception(case: PodCase) -> Finding | None:
    """Return the finding about an exception whose only label differs from the pod's by case or a typing error. A pod
    that has the label of bindings, or one that is meant to be it, needs none.
    """
    labels = case.pod.metadata.labels or {}
    if case.pod.binding_label or meant_as_label(labels):
        return None
    for exception in case.facts.exceptions:
        pairs = list((exception.spec.pod_labels or {}).items())
        if len(pairs) != 1:
            continue
        ((key, value),) = pairs
        if key in labels:
            near = [(key, text) for text in similar_texts(value, [labels[key]])]
        else:
            near = [(name, value) for name in similar_texts(key, labels) if labels[name] == value]
        if near:
            about = "/".join(exception.key)
            message = f"it requires the label {key}={value}, and the pod has {'='.join(near[0])}"
            then = f"correct podLabels of AzurePodIdentityException {about}, or the pod's label (in its template)"
            return problem("exception", message, then, about=about)
    return None


def mirror_pod(case: PodCase) -> Finding:
    """Return the finding about a mirror pod, which has the state of a static pod."""
    return problem("mirror pod", "NMI and MIC ignore it", MIRROR_POD.detail, about="/".join(case.pod.key))


def label_links(case: PodCase) -> Iterator[Finding]:
    """Yield the link of the label by which bindings select the pod."""
    pod = case.pod
    if pod.binding_label:
        yield ok("label", "bindings select the pod by it", about=f"aadpodidbinding={pod.binding_label}")
        return
    message = "the pod does not have this label, or its value is empty"
    labels = pod.metadata.labels or {}
    if near := meant_as_label(labels):
        then = f"rename the pod's label {near[0]!r} (in its Deployment's template) to {BINDING_LABEL}"
        yield problem("label", f"{message}; it has {near[0]!r}", then, about=BINDING_LABEL)
        return
    owner = case.facts.owner
    if owner is not None and (misplaced := misplaced_label(owner)) is not None:
        yield misplaced
        return
    if owner is not None and (wanted := owner.workload.template.metadata.label(BINDING_LABEL)):
        message = f"{message}; the pod template of {owner.kind.name} {'/'.join(owner.workload.key)} has it"
        then = f"kubectl delete pod {pod.metadata.name} -n {pod.metadata.namespace}"
        then = f"let the workload create the pod from the changed template: {then}"
        then = "wait for the CronJob's next Job: this one has the former template" if owner.kind is CRON_JOBS else then
        yield problem("label", message, then, about=f"{BINDING_LABEL}={wanted}")
        return
    then = "label the pod (in its Deployment's template) aadpodidbinding=… with the selector of an AzureIdentityBinding"
    yield problem("label", message, then, about=BINDING_LABEL)


def misplaced_label(owner: Owner) -> Finding | None:
    """Return the finding about a label on the workload only, which its pods do not get, or None."""
    kind, workload = owner
    label = workload.metadata.label(BINDING_LABEL)
    if not label or workload.template.metadata.label(BINDING_LABEL):
        return None
    namespace, name = workload.key
    message = f"the label is on {kind.name} {namespace}/{name}, not in its pod template"
    then = "delete the Job, and create it with the label in spec.template.metadata.labels: its template is immutable"
    if kind is not JOBS:
        patch: dict[str, Any] = {"spec": {"template": {"metadata": {"labels": {BINDING_LABEL: label}}}}}
        patch = {"spec": {"jobTemplate": patch}} if kind is CRON_JOBS else patch
        words = ("kubectl", "patch", f"{kind.name.lower()}/{name}", "-p", msgspec.json.encode(patch).decode())
        # A long word after a name such as `basic` would be removed as a credential.
        command = shlex.join((*words, "--type=merge", f"--namespace={namespace}"))
        then = f"label the pod template, which gives the label to new pods: {command}"
    return problem("label", message, then, about=f"{BINDING_LABEL}={label}")


def check_identity_choice(case: ClusterCase) -> Iterator[Finding]:
    """Report pods to which bindings of other namespaces give identities, and pods with several identities whose
    containers do not set AZURE_CLIENT_ID, or perhaps do not.
    """
    objects, embedded = case.objects, embedded_bindings(case.existing_assignments)
    added: list[str] = []
    only_foreign: list[str] = []
    several: list[str] = []
    undecided: list[str] = []
    for pod in live_pods(objects):
        # IMDS responds to these pods, so no choice between identities is made for them.
        if pod.spec.host_network or case.exempt(pod):
            continue
        # NMI orders by the binding that each object embeds, which can differ between the pods of one label.
        identities = in_nmis_order(case.binding_index.all_desired(pod, embedded).values())
        name = "/".join(pod.key)
        if foreign := [desired for desired in identities if desired.crosses_namespaces]:
            pods = only_foreign if len(foreign) == len(identities) else added
            pods.append(f"{name} ({_names(foreign)})")
        if len(identities) > 1 and (sets := sets_client_id(pod)) is not True:
            (undecided if sets is None else several).append(f"{name} ({'/'.join(identities[0].identity.key)})")
    if added:
        message = (
            f"bindings of other namespaces give further identities to {counted(len(added), 'pod')}: {listed(added)}"
        )
        yield warning("other namespaces", message, FOREIGN_ADVICE)
    if only_foreign:
        message = f"{counted(len(only_foreign), 'pod gets', 'pods get')} identities of other namespaces only: "
        yield ok("other namespaces", message + listed(only_foreign))
    if several:
        message = (
            f"{counted(len(several), 'pod has', 'pods have')} several identities, and no container sets "
            f"{CLIENT_ID_VARIABLE}; a request that names none gets the one in parentheses: {listed(several)}"
        )
        yield warning("several identities", message, NAME_ONE)
    if undecided:
        message = (
            f"{counted(len(undecided), 'pod has', 'pods have')} several identities, and a ConfigMap or a Secret "
            f"(envFrom) may set {CLIENT_ID_VARIABLE}; a request that names none gets the one in parentheses: "
            f"{listed(undecided)}"
        )
        yield unknown("several identities", message, NAME_ONE)
    if not added and not only_foreign and not several and not undecided:
        yield ok("several identities", "every pod has one identity or names one, of its namespace")


def _names(identities: Sequence[DesiredAssignment]) -> str:
    return listed(("/".join(desired.identity.key) for desired in identities), IDENTITIES_MAX)


def check_unserved_pods(case: ClusterCase) -> Iterator[Finding]:
    """Report labelled pods that NMI does not serve: on a node where it cannot run, on the host's network, or under an
    exception.
    """
    objects = case.objects
    yield from _on_unsupported_nodes(case)
    host = [pod for pod in live_pods(objects) if pod.spec.host_network]
    if host:
        message = f"{counted(len(host), 'pod')} with a label on the host's network: " + listed(
            "/".join(pod.key) for pod in host
        )
        then = "remove hostNetwork from their spec: IMDS responds to them with the node's own identities"
        yield problem("host network", message, then)
    # The finding above has those on the host's network.
    under = [pod for pod in live_pods(objects) if not pod.spec.host_network and case.exempt(pod)]
    if under:
        message = (
            f"{counted(len(under), 'pod')} with a label and under an exception, which takes precedence: "
            + listed("/".join(pod.key) for pod in under)
        )
        yield warning("exceptions", message, "remove the exception's label from these pods, or narrow the exception")
    elif objects.exceptions:
        count = counted(len(objects.exceptions), "exception")
        yield ok("exceptions", f"{count}; no labelled pod is under one")


def check_labels(case: ClusterCase) -> Iterator[Finding]:
    """Report pods with a label whose key is meant to be the one of bindings, and which no exception of their namespace
    requires.
    """
    required = {
        (exception.metadata.namespace, key)
        for exception in case.facts.exceptions
        for key in exception.spec.pod_labels or {}
    }
    every = case.read("labels", case.facts.mislabelled)
    meant = {pod: label for pod, label in every.items() if (namespace_of(pod), label.key) not in required}
    if meant:
        several = listed(f"{pod} ({label.key!r})" for pod, label in meant.items())
        message = f"{counted(len(meant), 'pod has', 'pods have')} no label {BINDING_LABEL}, but one like it: {several}"
        then = f"if it is meant to be {BINDING_LABEL}, rename it in the pods' templates"
        yield warning("labels", message, then, explains=("labels",))


def _on_unsupported_nodes(case: ClusterCase) -> Iterator[Finding]:
    unable = {node.metadata.name for node in case.facts.nodes if not node.can_run_nmi}
    by_cause = grouped(
        (missing, "/".join(pod.key))
        for pod in live_pods(case.facts)
        if pod.spec.node_name in unable and (missing := case.nodes_without_nmi.get(pod.spec.node_name)) is not None
    )
    for missing, pods in by_cause.items():
        labelled = f"{counted(len(pods), 'pod')} with a label, which NMI does not serve"
        message = f"{labelled}: {missing.reason}, so {missing.effect}: {listed(pods)}"
        yield problem("NMI", message, missing.then)


POD_CHECKS: Final = (label_links,)


CHECKS: Final = (check_identity_choice, check_unserved_pods, check_labels)
