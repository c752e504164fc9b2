"""Differences between two reviews: what pods, hosts and subjects have gained or lost. Pure.

Pods are compared by workload, so that a restart or a rollout is no difference.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from podidctl.access.schema import SCHEMA_VERSION, AccessReview, GrantState
from podidentity.report import ReportModel

DOCUMENT_MAX: Final = 64 << 20
"""Bytes of a stored review. One of 5,000 pods has some 5 MiB."""
NOT_GRANTED: Final = frozenset({GrantState.BYPASSED, GrantState.DISABLED})


class DocumentError(Exception):
    """The file is not a stored review. The message is one line with the next action."""


class Difference(ReportModel, frozen=True, kw_only=True):
    """One fact that only one of two reviews has."""

    sign: str
    """`+` for a new fact, `-` for a former one."""
    subject: str
    """Kind and name of the changed object."""
    says: str


class Differences(ReportModel, frozen=True, kw_only=True):
    """All differences, sorted."""

    before: str
    """Time of the former review."""
    after: str
    differences: list[Difference]
    unknown: list[str]
    """Parts that one of the reviews could not read: differences in them may be missing, or no real change."""


class _Version(msgspec.Struct, rename="camel"):
    schema_version: int = 0


def read_document(data: bytes) -> AccessReview:
    """Return the stored review. Raises DocumentError."""
    advice = "write it with podidctl access -o json"
    if len(data) > DOCUMENT_MAX:
        raise DocumentError(f"it has more than {DOCUMENT_MAX} bytes")
    try:
        # First, because a document of another version may not have the fields that this one needs.
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise DocumentError(f"it has schema version {version}, and this podidctl reads {SCHEMA_VERSION}; {advice}")
        return msgspec.json.decode(data, type=AccessReview)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentError(f"it is not an access review ({error}); {advice}") from error


def compare(before: AccessReview, after: AccessReview) -> Differences:
    """Return the differences. Raises DocumentError if the reviews have different scopes."""
    if before.scope != after.scope:
        raise DocumentError(
            f"the reviews have different scopes ({_scope(before)} and {_scope(after)}); use the same arguments"
        )
    former, later = set(_facts(before)), set(_facts(after))
    changes = [("+", fact) for fact in later - former] + [("-", fact) for fact in former - later]
    unread = {unknown.part for review in (before, after) for unknown in review.unknown}
    # What only one of the reviews read on Azure would seem to be new or gone.
    if before.azure != after.azure:
        unread.add(f"azure (before: {before.azure}, after: {after.azure})")
    return Differences(
        before=before.read_at,
        after=after.read_at,
        differences=[
            Difference(sign=sign, subject=subject, says=message)
            for sign, (subject, message) in sorted(changes, key=lambda change: (change[1][0], change[0], change[1][1]))
        ],
        unknown=sorted(unread),
    )


def _scope(review: AccessReview) -> str:
    return f"{review.scope.kind} {review.scope.name}" if review.scope.kind else "the cluster"


def _facts(review: AccessReview) -> Iterator[tuple[str, str]]:
    """Yield every fact as its subject and a sentence without one."""
    yield from _facts_about_pods(review)
    for identity in review.identities:
        about = f"type {identity.type}, client id {identity.client_id}, resource id {identity.resource_id or '(none)'}"
        yield f"identity {identity.full_name}", f"exists: {about}"
        if identity.problem:
            yield f"identity {identity.full_name}", f"cannot be used: {identity.problem}"
    for binding in review.bindings:
        yield f"binding {binding.full_name}", f"gives {binding.identity} to the selector {binding.selector!r}"
        if binding.critical:
            yield f"binding {binding.full_name}", binding.critical
    for exception in review.exceptions:
        labels = ", ".join(f"{key}={value}" for key, value in exception.labels.items())
        yield f"exception {exception.full_name}", f"exempts pods with one of the labels {labels or '(none)'}"
    for host in review.hosts:
        for attached in host.attached:
            yield f"host {host.id}", f"has {attached.resource_id} attached (explained by {attached.explained})"
        if host.system_assigned:
            yield f"host {host.id}", "has a system-assigned identity"
    for subject in review.subjects:
        for right in subject.rights:
            where = f"in {', '.join(right.namespaces)}" if right.namespaces else "in all namespaces"
            names = f" on {', '.join(right.names)}" if right.names else ""
            wildcard = " by a wildcard" if right.wildcard else ""
            yield subject.full_name, f"may {right.action} ({', '.join(right.verbs)}){names} {where}{wildcard}"


def _facts_about_pods(review: AccessReview) -> Iterator[tuple[str, str]]:
    workloads = {pod.full_name: f"{pod.namespace}/{pod.workload}" for pod in review.pods}
    for pod in review.pods:
        for access in pod.host_access:
            yield f"workload {workloads[pod.full_name]}", f"reaches its node's identities by {access.setting}"
        for access in pod.undecided_access:
            yield f"workload {workloads[pod.full_name]}", f"may reach its node's identities by {access.setting}"
        for action in pod.rights:
            yield f"workload {workloads[pod.full_name]}", f"may {action}, by service account {pod.service_account}"
    for grant in review.grants:
        if grant.state not in NOT_GRANTED:
            path = f" through binding {grant.binding}" if grant.binding else ""
            possible = "may be able to use" if grant.state is GrantState.POSSIBLE else "can use"
            yield f"workload {workloads.get(grant.pod, grant.pod)}", f"{possible} identity {grant.identity}{path}"
