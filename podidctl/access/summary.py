"""Totals of a review of the whole cluster. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from podidctl.access.cluster_objects import ClusterObjects
from podidctl.access.schema import Explained, Grant, GrantState, Host, PodAccess, SubjectAccess, Summary
from podidctl.facts.model import ReadFailure

GIVEN: Final = frozenset({GrantState.USABLE, GrantState.PENDING})


def summarize(
    objects: ClusterObjects,
    *,
    live_pods: int,
    pods: Iterable[PodAccess],
    grants: Iterable[Grant],
    hosts: Sequence[Host],
    subjects: Iterable[SubjectAccess] | None,
    azure_complete: bool,
) -> Summary:
    """Return the totals. *live_pods*: the number of pods that have not ended; *subjects*: None if RBAC could not be
    read; *azure_complete*: whether Azure returned every host.
    """
    pods = list(pods)
    pods_read = not isinstance(objects.pods, ReadFailure)
    unexplained = {
        (host.id, attached.resource_id)
        for host in hosts
        for attached in host.attached
        if attached.explained is Explained.NOTHING
    }
    grants_known = pods_read and not any(
        isinstance(part, ReadFailure) for part in (objects.identities, objects.bindings, objects.assigned)
    )
    return Summary(
        identities=_count(objects.identities),
        bindings=_count(objects.bindings),
        pods=live_pods if pods_read else None,
        pods_with_identities=len({grant.pod for grant in grants if grant.state in GIVEN}) if grants_known else None,
        host_pods=sum(bool(pod.host_access) for pod in pods) if pods_read else None,
        undecided_pods=sum(bool(pod.undecided_access) and not pod.host_access for pod in pods) if pods_read else None,
        nodes=_count(objects.nodes),
        hosts=None if isinstance(objects.nodes, ReadFailure) else len(hosts),
        unexplained=len(unexplained) if azure_complete else None,
        subjects=None if subjects is None else sum(not subject.built_in for subject in subjects),
    )


def _count(several: Sequence[object] | ReadFailure) -> int | None:
    return None if isinstance(several, ReadFailure) else len(several)
