"""Checks of NMI and MIC: on every node, ready, of one version, with consistent flags and one leader. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from mic.startup.settings import MicSettings
from nmi.node.host_routing import LABEL
from nmi.settings import NmiSettings
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.daemons import NO_NMI_FOUND, MissingNmi, absent_nmi
from podidctl.evaluation.pod import PodCase
from podidctl.facts.kinds import Daemon, parse_time, service_account_of
from podidctl.facts.model import BLOCKED, REASONS, RULE_EVENTS_MAX, RULES_LABEL, UNEXPECTED, Locks, ReadFailure
from podidctl.facts.settings import mic_namespaces, mic_settings, nmi_settings, read_settings
from podidctl.report.finding import Finding, Level, ok, problem, unknown, warning
from podidctl.report.text import grouped, listed
from podidentity.kube.lease import REFERENCE_SECONDS
from podidentity.kube.lock_records import LockRecord
from podidentity.report import counted
from podidentity.resources import Pod, PodSpec

EBPF: Final = "eBPF host routing"
EBPF_PAGE: Final = "docs/operations.md#aks-nodes-with-ebpf-host-routing"
_REMOVE_RULES: Final = (
    "compare iptables-save on these nodes with the rules of AKS: `nmi --cleanup` removes NMI's and those of the Go "
    "implementation, and the program that wrote the others must stop"
)
_ACTIONS: Final = {
    UNEXPECTED: _REMOVE_RULES,
    BLOCKED: (
        "AKS's kernel program azure-block-iptables refused a rule: find the program that writes it (NMI's log names "
        "its own), and do not bypass the kernel program"
    ),
}
NEEDS_MIC: Final = ("leader", "assignments")
"""Checks whose faults follow if MIC does not run."""
LEADER_GRACE_SECONDS = 60.0
"""Added to a lock's duration, because clocks differ between machines and the leader may be changing."""


def nmi_links(case: PodCase) -> Iterator[Finding]:
    """Yield the links of NMI on the pod's node."""
    node, nmi = case.pod.spec.node_name, case.facts.nmi
    if (missing := absent_nmi(case)) is not None:
        message = f"this node has no NMI, so {missing.effect}: {missing.reason}"
        yield problem("NMI", message, missing.then, about=node)
    elif isinstance(nmi, ReadFailure):
        yield unknown("NMI", f"pods could not be listed: {nmi.reason}", about=node)
    elif not case.nmi:
        then = (
            "install NMI: without it IMDS responds to this pod; if NMI runs outside of a pod with its label, read its "
            "/readyz on the node, and pass its flags, such as --nmi-flags=--node=NAME"
        )
        yield Finding(
            "NMI", Level.UNKNOWN if case.configuration.is_given else Level.PROBLEM, NO_NMI_FOUND, then, about=node
        )
    else:
        for daemon in case.nmi:
            if daemon.ready:
                yield ok("NMI", f"ready on node {node}", about=daemon.name)
            else:
                then = f"{_see_log(daemon)} and its /readyz"
                yield problem("NMI", f"not ready on node {node}: {daemon.not_ready_reason}", then, about=daemon.name)


def running_as(program: str, daemon: Daemon) -> str:
    """Return *program* with the account of *daemon*; nothing if it does not run, so that no permission and no
    definition can be why it is not ready.
    """
    return f"{program} {service_account_of(daemon)}" if daemon.runs else ""


def _see_log(daemon: Daemon) -> str:
    return f"see kubectl logs -n {daemon.metadata.namespace} {daemon.metadata.name}"


def check_coverage(case: ClusterCase) -> Iterator[Finding]:
    """Check that every suitable node has a ready NMI."""
    nmi = case.read("NMI", case.facts.nmi)
    nodes = None if case.facts.unread else case.facts.nodes
    if not nmi:
        then = "install NMI; if it runs outside of a pod with its label, read its /readyz on each node"
        yield unknown("NMI", "no pod has NMI's label (app.kubernetes.io/component=nmi, component=nmi)", then)
        return
    # `genuine_nmi` returns such pods only if there are no others.
    outside = [daemon.name for daemon in nmi if not daemon.is_part_of_node]
    if outside:
        message = (
            f"{counted(len(outside), 'pod')} with NMI's label, none of them in the node's network or with files of the "
            f"node: {listed(outside)}"
        )
        then = "install NMI as a DaemonSet by its chart: anyone with permission to create a pod can set its label"
        yield problem("NMI", message, then)
        return
    there = {daemon.spec.node_name for daemon in nmi}
    suitable = {node.metadata.name for node in nodes or () if node.can_run_nmi}
    without = {name: missing for name, missing in case.nodes_without_nmi.items() if name in suitable}
    yield from _without_nmi(without)
    unready = [daemon for daemon in nmi if not daemon.ready]
    for cause, several in grouped((running_as("NMI", daemon), daemon) for daemon in unready).items():
        message = f"{counted(len(several), 'NMI is', 'NMIs are')} not ready: " + listed(
            f"{daemon.name} on {daemon.spec.node_name} ({daemon.not_ready_reason})" for daemon in several
        )
        yield problem("NMI", message, f"{_see_log(several[0])} and its /readyz", cause=cause)
    if nodes is None:
        message = f"it runs on {counted(len(there), 'node')}, and the nodes without it are not known"
        yield unknown("NMI", message, "run this command with more permissions: list on nodes")
    elif not without and not unready:
        yield ok("NMI", f"ready on {counted(len(there), 'node')}")


def _without_nmi(nodes: Mapping[str, MissingNmi]) -> Iterator[Finding]:
    """Report *nodes*, which have no NMI, one finding for each cause."""
    for reason, names in grouped((missing.reason, name) for name, missing in nodes.items()).items():
        message = f"{counted(len(names), 'node')} without NMI, where IMDS responds to pods: {listed(names)}: {reason}"
        yield problem("NMI", message, nodes[names[0]].then)


def check_controllers(case: ClusterCase) -> Iterator[Finding]:
    """Check that a MIC runs if one is needed, and none otherwise."""
    mic, nmi = case.read("MIC", case.facts.mic), case.nmi
    ready = [daemon for daemon in mic if daemon.ready]
    expected = {daemon.metadata.namespace for daemon in nmi} | mic_namespaces(nmi)
    if nmi and mic and not any(daemon.metadata.namespace in expected for daemon in mic):
        message = (
            f"no pod with MIC's label is in NMI's namespace or in its --MICNamespace ({listed(expected)}), but "
            f"elsewhere: {listed(daemon.name for daemon in mic)}"
        )
        then = (
            "install MIC there, or set NMI's --MICNamespace to MIC's namespace; anyone with permission to create a pod "
            "can set the label"
        )
        yield warning("MIC", message, then)
        return
    if case.managed and mic:
        message = f"NMI runs in managed mode, which does not use MIC: {listed(daemon.name for daemon in mic)}"
        yield warning("MIC", message, "delete MIC's Deployment, or run NMI in standard mode")
    elif mic and not ready:
        message = f"no MIC is ready: {listed(f'{daemon.name} ({daemon.not_ready_reason})' for daemon in mic)}"
        then = f"{_see_log(mic[0])} (without MIC nothing is assigned)"
        causes = {running_as("MIC", daemon) for daemon in mic}
        # If the pods of MIC have several causes, none of them explains that no MIC is ready.
        yield problem("MIC", message, then, cause=causes.pop() if len(causes) == 1 else "", explains=NEEDS_MIC)
    elif mic:
        yield ok("MIC", f"{len(ready)} of {counted(len(mic), 'replica')} ready")
    elif not case.managed:
        then = "install MIC; if it runs outside of a pod with its label, see the leader check"
        yield unknown("MIC", "no pod has MIC's label (app.kubernetes.io/component=mic, component=mic)", then)


def check_versions(case: ClusterCase) -> Iterator[Finding]:
    """Check the images. Several images of one program mean an incomplete rollout or two installations."""
    tags: list[str] = []
    for program, pods in (("nmi", case.nmi), ("mic", case.mic)):
        images = {container.image for pod in pods if (container := pod.container(program)) is not None}
        if len(images) > 1:
            message = f"{program} runs from {len(images)} images: {listed(images)}"
            yield warning("versions", message, "finish the rollout: kubectl rollout status")
        elif images:
            yield ok("versions", f"{program} runs from {listed(images)}")
            tags += filter(None, map(_tag, images))
    # An image by digest has no tag, and several images of one program are already reported.
    if len(tags) == 2 and len(set(tags)) == 2:
        message = f"nmi runs from tag {tags[0]}, mic from tag {tags[1]}"
        yield warning("versions", message, "bring both to one version: helm upgrade, or the manifests' images")


def _tag(image: str) -> str:
    # A colon before the last slash belongs to the port of the registry.
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def check_flags(case: ClusterCase) -> Iterator[Finding]:
    """Check that the daemons' flags can be read and are consistent."""
    check = "flags"
    nmis, unread_nmi = read_settings(case.nmi, nmi_settings)
    mics, unread_mic = read_settings(case.mic, mic_settings)
    unread = [*unread_nmi, *unread_mic]
    for reason in unread:
        yield warning(check, reason, "correct it: this version's programs do not start with such a flag")
    # An exception that was not read may cover MIC.
    not_exempt = () if case.facts.unread else _mic_not_exempt(nmis, case)
    faults = [*_disagreements(nmis, mics), *not_exempt]
    for message, then in faults:
        yield warning(check, message, then)
    if (nmis or mics) and not faults and not unread:
        yield ok(check, "they can be read and are consistent")


def _disagreements(nmis: Sequence[NmiSettings], mics: Sequence[MicSettings]) -> Iterator[tuple[str, str]]:
    modes = {settings.operation_mode for settings in nmis}
    if len(modes) > 1:
        yield "NMIs run in different operation modes", "finish the rollout of the DaemonSet"
    forced = {settings.force_namespaced for settings in nmis}, {settings.force_namespaced for settings in mics}
    # Without readable flags of one program there is nothing to compare.
    if all(forced) and len(forced[0] | forced[1]) > 1:
        yield (
            "--forceNamespaced differs: NMI may refuse or serve what MIC assigns across namespaces",
            "give NMI and MIC the same --forceNamespaced",
        )
    if any(settings.allow_kubenet for settings in nmis):
        yield (
            "--allow-network-plugin-kubenet is set: with kubenet a pod can use another's address and get its tokens",
            "use another network plugin, or deny NET_RAW to pods by policy",
        )


def _mic_not_exempt(nmis: Sequence[NmiSettings], case: ClusterCase) -> Iterator[tuple[str, str]]:
    """Report if NMI would not exempt MIC from redirection, by NMI's own rules."""
    where = {
        daemon.metadata.namespace
        for daemon in case.mic
        # Requests from the node's network are not redirected, so such a pod needs no exception.
        if not daemon.spec.host_network
        and not case.exempt(Pod(metadata=daemon.metadata, spec=PodSpec(node_name=daemon.spec.node_name)))
    }
    if nmis and where:
        served = listed({settings.mic_namespace for settings in nmis})
        message = (
            f"MIC runs in {listed(where)}, NMI's --MICNamespace is {served}, no exception covers MIC, and NMI "
            "recognizes MIC only as a pod of a ReplicaSet named mic… with MIC's label"
        )
        then = (
            "create an AzurePodIdentityException in MIC's namespace with spec.podLabels of MIC's pods, or set NMI's "
            "--MICNamespace to it, unless MIC has its own credentials"
        )
        yield message, then


def check_ebpf_host_routing(case: ClusterCase) -> Iterator[Finding]:
    """Report the nodes with the label, and each with unexpected or refused rules."""
    monitor, nodes = case.facts.rule_monitor, case.facts.nodes
    labelled = {node.metadata.name for node in nodes if node.has_ebpf_host_routing}
    if labelled:
        yield from _redirects(labelled, [configuration.settings for configuration in case.configurations])
    for value in (monitor.with_rules, monitor.events):
        # Without a node that has the label, nothing depends on what could not be read.
        if isinstance(value, ReadFailure) and labelled:
            right = "list on ciliumnodes.cilium.io, and on events in namespace default"
            yield unknown(EBPF, value.reason, value.next_action(right), cause=value.reason)
    if not isinstance(monitor.with_rules, ReadFailure):
        yield from _rules(monitor.with_rules, labelled)
    if not isinstance(monitor.events, ReadFailure):
        there = {node.metadata.name for node in nodes}
        for reason in REASONS:
            # Others than AKS can create Events, also about nodes that do not exist.
            if names := monitor.events.get(reason, frozenset()) & there:
                message = f"Events {reason} of AKS exist about {counted(len(names), 'node')}: {listed(sorted(names))}"
                yield warning(EBPF, message, f"{_ACTIONS[reason]}, see {EBPF_PAGE}")
    for reason in sorted(monitor.with_more_events):
        message = f"only the first {RULE_EVENTS_MAX} Events {reason} were read, of which any may be forged"
        then = f"read the others: kubectl get events -n default --field-selector reason={reason}"
        yield unknown(EBPF, message, then)


def _redirects(labelled: set[str], nmi: Sequence[NmiSettings]) -> Iterator[Finding]:
    with_rules = {settings.node_name for settings in nmi if settings.redirect.changes_rules}
    ruled = labelled & with_rules
    unread = labelled - {settings.node_name for settings in nmi}
    message = f"{counted(len(labelled), 'node has', 'nodes have')} the label {LABEL}=true"
    if ruled:
        then = (
            f"set nmi.redirect.backend to cilium, or disable eBPF host routing in AKS (acceleration mode None), see "
            f"{EBPF_PAGE}"
        )
        direct = f"{message}, where NMI writes no rule, so that pods reach IMDS directly: {listed(sorted(ruled))}"
        yield problem(EBPF, direct, then)
    if unread:
        unread_flags = (
            f"{message}; on {counted(len(unread), 'node')} NMI's flags are not known: {listed(sorted(unread))}"
        )
        yield unknown(EBPF, unread_flags, "see the findings of NMI and of its flags")
    if not ruled and not unread:
        yield ok(EBPF, f"{message}, and no NMI there has a redirect by rules")


def _rules(names: frozenset[str], labelled: set[str]) -> Iterator[Finding]:
    if harmed := names & labelled:
        message = (
            f"{counted(len(harmed), 'CiliumNode has', 'CiliumNodes have')} the label {RULES_LABEL}=true: rules of "
            f"iptables keep Cilium's agent from starting on {listed(sorted(harmed))}"
        )
        yield problem(EBPF, message, f"{_REMOVE_RULES}, see {EBPF_PAGE}")
    if others := names - labelled:
        message = (
            f"{counted(len(others), 'CiliumNode has', 'CiliumNodes have')} the label {RULES_LABEL}=true, so AKS "
            f"refuses to enable eBPF host routing: {listed(sorted(others))}"
        )
        yield ok(EBPF, message)


def check_leaders(case: ClusterCase) -> Iterator[Finding]:
    """Report the holder of each lock: one MIC must lead, and none of the Go implementation may write too."""
    locks = case.read("leader", case.facts.locks)
    if len(locks) > 1:
        names = listed(f"{lock.namespace}/{lock.name}" for lock in locks)
        message = f"MICs use locks of different names and therefore write at the same time: {names}"
        then = (
            "give all MICs the same --leader-election-namespace and --leader-election-name, or delete one installation"
        )
        yield problem("leader", message, then)
    for lock in locks:
        yield _leader(lock, case.now, needed=not case.managed)


def _leader(locks: Locks, now: datetime, *, needed: bool) -> Finding:
    about = f"{locks.namespace}/{locks.name}"
    lease, endpoints = _holder(locks.lease, now), _holder(locks.endpoints, now)
    if lease and endpoints and lease != endpoints:
        message = f"{endpoints} holds the Go implementation's lock (Endpoints {about}) while {lease} holds the Lease"
        return problem("leader", message, "scale one of the two MICs to 0: they revert each other's changes")
    if lease:
        return ok(
            "leader", f"{lease} holds Lease {about}{' and the lock of the Go implementation' if endpoints else ''}"
        )
    if endpoints:
        message = f"{endpoints} holds Endpoints {about} and the Lease has no holder: the Go implementation's MIC leads"
        return ok("leader", message)
    if not needed:
        return ok("leader", f"{about} has no holder, which is correct in managed mode")
    last = locks.lease.holder if locks.lease is not None and locks.lease.holder else ""
    former = f"; the last holder was {last}" if last else ""
    return problem(
        "leader",
        f"no MIC leads: neither Lease nor Endpoints {about} is held{former}",
        "check that MIC runs, that it uses this lock name, and its log: without a leader nothing is assigned",
        cause="leader",
        explains=("assignments",),
    )


def _holder(record: LockRecord | None, now: datetime) -> str:
    """Return the current holder, or an empty string."""
    if record is None or not record.holder:
        return ""
    renewed = parse_time(record.renewed)
    # MIC waits for such a lock until it stays unchanged, which one read cannot show.
    if renewed is None:
        return record.holder
    lasting = timedelta(seconds=(record.duration_seconds or REFERENCE_SECONDS) + LEADER_GRACE_SECONDS)
    return record.holder if now - renewed <= lasting else ""


CHECKS: Final = (
    check_coverage,
    check_controllers,
    check_ebpf_host_routing,
    check_versions,
    check_flags,
    check_leaders,
)
