"""All checks, each after the checks that it depends on. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from podidctl.diagnosis.input import ReadFailure, readable
from podidctl.doctor import api_server, custom_resources, leaders, node_checks, objects, programs, rights
from podidctl.doctor.assignments import check_assignments
from podidctl.doctor.client_ids import check_client_ids
from podidctl.doctor.daemon_uses import check_daemon_uses
from podidctl.doctor.ebpf_host_routing import check_ebpf_host_routing
from podidctl.doctor.exemptions import exemption_reasons
from podidctl.doctor.fail_closed import check_fail_closed
from podidctl.doctor.federated_identities import check_federated_identities
from podidctl.doctor.identity_choice import check_identity_choice
from podidctl.doctor.node_checks import NodeState
from podidctl.doctor.schema import Finding, Level, Report, make_finding
from podidctl.doctor.secrets import check_credentials, check_secrets
from podidctl.doctor.state import ClusterState, Objects
from podidctl.doctor.tokens import check_tokens

T = TypeVar("T")


def report(state: ClusterState, node: NodeState | None = None) -> Report:
    """Return the findings about the cluster, and about this machine if its state was read."""
    return Report(findings=[*_cluster(state), *(_node(node) if node is not None else ())])


def _cluster(state: ClusterState) -> Iterator[Finding]:
    nmi = readable(state.nmi)
    mic = readable(state.mic)
    managed, namespaced = programs.is_managed(nmi), programs.is_namespaced(nmi, mic)
    rules = programs.readable_configurations(nmi)
    yield from _with("API server", state.server, api_server.check_version, api_server.check_clocks)
    yield from custom_resources.definitions(state)
    yield from custom_resources.spellings(state)
    known = state.objects if isinstance(state.objects, Objects) else None
    there = known or Objects()
    exempt = exemption_reasons([each.settings for each in rules], there.exceptions)
    yield from _with("NMI", state.nmi, lambda pods: programs.coverage(pods, known.nodes if known else None))
    yield from _with("MIC", state.mic, lambda pods: programs.controllers(pods, nmi, managed=managed))
    yield from check_ebpf_host_routing(state.rule_monitor, there.nodes, [each.settings for each in rules])
    yield from programs.versions(nmi, mic)
    yield from programs.flags(nmi, mic, known.exceptions if known else None)
    now = state.server_time
    yield from _with("leader", state.locks, lambda locks: leaders.check_leaders(locks, now, needed=not managed))
    yield from _with("rights", state.rights, rights.check_rights)
    yield from check_daemon_uses(state.daemon_uses)
    yield from _with("secrets", state.secrets, lambda each: check_secrets(each, there.identities))
    yield from _with("credentials", state.credentials, lambda each: check_credentials(each, there))
    yield from _with("tokens", state.refused, check_tokens)
    yield from check_federated_identities(state.federation, there, nmi, state.server, exempt)
    yield from _with(
        "objects",
        state.objects,
        lambda each: objects.unusable_objects(
            each, rules, policy=programs.mic_policy(mic), force_namespaced=namespaced
        ),
        lambda each: objects.selectors(each, namespaced=managed or namespaced),
        objects.duplicates,
        lambda each: () if managed else check_assignments(each, now, exempt, force_namespaced=namespaced),
        lambda each: () if state.azure is None else check_client_ids(each, state.azure),
        lambda each: check_identity_choice(each, exempt, force_namespaced=managed or namespaced),
        lambda each: objects.not_served_by_nmi(each, exempt),
    )


def _node(state: NodeState) -> Iterator[Finding]:
    yield from node_checks.check_redirect(state)
    if state.closing is not None:
        yield from check_fail_closed(state.name, state.closing)
    yield from node_checks.check_kubenet(state)
    yield from node_checks.check_imds(state)


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
