"""All checks, in the order in which one depends on the other. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from podidctl.doctor import kinds, leaders, objects, programs, redirects, rights, server
from podidctl.doctor.assignments import assignments
from podidctl.doctor.closing import closing
from podidctl.doctor.exempt import exempting
from podidctl.doctor.federated import federated
from podidctl.doctor.redirects import NodeSeen
from podidctl.doctor.secrets import secrets
from podidctl.doctor.shapes import Finding, Level, Report, found
from podidctl.doctor.state import Objects, Seen
from podidctl.inquiry.facts import Unread

T = TypeVar("T")


def report(seen: Seen, node: NodeSeen | None = None) -> Report:
    """What is to be told of the cluster, and of this machine where it was looked at as a node."""
    return Report(findings=[*_cluster(seen), *(_node(node) if node is not None else ())])


def _cluster(seen: Seen) -> Iterator[Finding]:
    nmi = () if isinstance(seen.nmi, Unread) else seen.nmi
    mic = () if isinstance(seen.mic, Unread) else seen.mic
    managed, namespaced = programs.is_managed(nmi), programs.is_namespaced(nmi, mic)
    rules = programs.rules(nmi)
    yield from _with("API server", seen.server, server.version, server.clocks)
    yield from kinds.definitions(seen)
    yield from kinds.spellings(seen)
    there = seen.objects if isinstance(seen.objects, Objects) else Objects()
    exempt = exempting([each.settings for each in rules], there.exceptions)
    yield from _with("NMI", seen.nmi, lambda pods: programs.coverage(pods, there.nodes))
    yield from _with("MIC", seen.mic, lambda pods: programs.controllers(pods, managed=managed))
    yield from programs.versions(nmi, mic)
    yield from programs.flags(nmi, mic, there.exceptions)
    yield from _with("leader", seen.locks, lambda locks: leaders.leaders(locks, seen.now, needed=not managed))
    yield from _with("rights", seen.rights, rights.rights)
    yield from _with("secrets", seen.secrets, lambda each: secrets(each, there.identities))
    yield from federated(seen.federation, there, nmi, seen.server, exempt)
    yield from _with(
        "objects",
        seen.objects,
        lambda each: objects.nobody_can_use(each, rules, force_namespaced=namespaced),
        lambda each: objects.selectors(each, namespaced=managed or namespaced),
        objects.duplicates,
        lambda each: () if managed else assignments(each, seen.servers_now, exempt, force_namespaced=namespaced),
        lambda each: objects.beside_nmi(each, exempt),
    )


def _node(seen: NodeSeen) -> Iterator[Finding]:
    yield from redirects.redirect(seen)
    if seen.closing is not None:
        yield from closing(seen.name, seen.closing)
    yield from redirects.kubenet(seen)
    yield from redirects.imds(seen)


def _with(check: str, value: T | Unread, *checks: Callable[[T], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of *checks* on what was read, or that it was not."""
    if isinstance(value, Unread):
        yield found(check, Level.UNKNOWN, value.why, "ask with more rights (get and list on what it names)")
        return
    for each in checks:
        yield from each(value)
