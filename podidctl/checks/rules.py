"""All checks of `podidctl doctor`, each after the checks that it depends on. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from podidctl.checks.assignments import check_assignments
from podidctl.checks.bindings import duplicates, selectors, unusable_objects
from podidctl.checks.cluster import check_clocks, check_version, definitions, spellings
from podidctl.checks.credentials import check_credentials, check_secrets, check_tokens
from podidctl.checks.daemons import check_ebpf_host_routing, check_leaders, controllers, coverage, flags, versions
from podidctl.checks.federated import check_federated_identities
from podidctl.checks.hosts import check_client_ids
from podidctl.checks.machine import check_fail_closed, check_imds, check_kubenet, check_redirect
from podidctl.checks.permissions import check_daemon_uses, check_rights
from podidctl.checks.pod import check_identity_choice, not_served_by_nmi
from podidctl.evaluation.daemons import exemption_reasons
from podidctl.facts.model import ClusterState, NodeState, Objects, ReadFailure, readable
from podidctl.facts.settings import is_managed, is_namespaced, mic_policy, readable_configurations
from podidctl.report.documents import Finding, Report, make_finding
from podidctl.report.finding import Level

T = TypeVar("T")


def report(state: ClusterState, node: NodeState | None = None) -> Report:
    """Return the findings about the cluster, and about this machine if its state was read."""
    return Report(findings=[*_cluster(state), *(_node(node) if node is not None else ())])


def _cluster(state: ClusterState) -> Iterator[Finding]:
    nmi = readable(state.nmi)
    mic = readable(state.mic)
    managed, namespaced = is_managed(nmi), is_namespaced(nmi, mic)
    rules = readable_configurations(nmi)
    yield from _with("API server", state.server, check_version, check_clocks)
    yield from definitions(state)
    yield from spellings(state)
    known = state.objects if isinstance(state.objects, Objects) else None
    there = known or Objects()
    exempt = exemption_reasons([each.settings for each in rules], there.exceptions)
    yield from _with("NMI", state.nmi, lambda pods: coverage(pods, known.nodes if known else None))
    yield from _with("MIC", state.mic, lambda pods: controllers(pods, nmi, managed=managed))
    yield from check_ebpf_host_routing(state.rule_monitor, there.nodes, [each.settings for each in rules])
    yield from versions(nmi, mic)
    yield from flags(nmi, mic, known.exceptions if known else None)
    now = state.server_time
    yield from _with("leader", state.locks, lambda locks: check_leaders(locks, now, needed=not managed))
    yield from _with("rights", state.rights, check_rights)
    yield from check_daemon_uses(state.daemon_uses)
    yield from _with("secrets", state.secrets, lambda each: check_secrets(each, there.identities))
    yield from _with("credentials", state.credentials, lambda each: check_credentials(each, there))
    yield from _with("tokens", state.refused, check_tokens)
    yield from check_federated_identities(state.federation, there, nmi, state.server, exempt)
    yield from _with(
        "objects",
        state.objects,
        lambda each: unusable_objects(each, rules, policy=mic_policy(mic), force_namespaced=namespaced),
        lambda each: selectors(each, namespaced=managed or namespaced),
        duplicates,
        lambda each: () if managed else check_assignments(each, now, exempt, force_namespaced=namespaced),
        lambda each: () if state.azure is None else check_client_ids(each, state.azure),
        lambda each: check_identity_choice(each, exempt, force_namespaced=managed or namespaced),
        lambda each: not_served_by_nmi(each, exempt),
    )


def _node(state: NodeState) -> Iterator[Finding]:
    yield from check_redirect(state)
    if state.closing is not None:
        yield from check_fail_closed(state.name, state.closing)
    yield from check_kubenet(state)
    yield from check_imds(state)


def _with(check: str, value: T | ReadFailure, *checks: Callable[[T], Iterable[Finding]]) -> Iterator[Finding]:
    """Return the findings of *checks* on *value*, or one finding about the failed read."""
    if isinstance(value, ReadFailure):
        yield make_finding(
            check,
            Level.UNKNOWN,
            value.why,
            value.next_action("get and list on the named resource"),
        )
        return
    for each in checks:
        yield from each(value)
