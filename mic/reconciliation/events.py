"""Kubernetes Events for identities that are not attached to their host, on the binding, the waiting pod and the
AzureAssignedIdentity.

The binding's Event has the wording of the Go implementation, with the binding's namespace. Their number is limited,
because thousands of pods may wait for one identity, and each object has the message too. `writer` records successes, on
bindings only.
"""

import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from mic.azure.errors import AzureError, BadIdentities, Missing, Refused, principal_of
from mic.azure.identities import role_command
from mic.azure.memory import NO_RESPONSE
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from mic.decisions.documents import APPLY_ERROR
from mic.decisions.identity_usage import HostView
from mic.decisions.steps import Explain, FinishStep
from podidentity.azure.resource_ids import Host
from podidentity.kube.events import EventRecorder
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    IDENTITIES,
    POD_UID_ANNOTATION,
    PODS,
    AzureIdentityBinding,
    PodMeta,
    ScheduledPod,
)

log = logging.getLogger(__name__)

FAULTY: Final = "an AzureIdentity is not assigned; correct it, or delete it"
APPLIED: Final = "binding applied"
REMOVED: Final = "binding removed"
INVALID_IDENTITY: Final = "invalid identity"
"""Reasons of Events, spelled as in the Go implementation, because alerts match them."""

EVENTS_PER_IDENTITY_MAX: Final = 10
"""Pods with an Event for one identity in one pass."""
EVENTS_PER_PASS_MAX: Final = 30
"""Pods with an Event in one pass of a host, whose identities may all be refused together."""


class AssignmentEvents:
    """Events of one reconcile pass: create one object per pass."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._left = EVENTS_PER_PASS_MAX

    def failed(self, host_view: HostView, failed: Mapping[str, str], outcomes: Iterable[FinishStep]) -> None:
        """Record why identities are not attached: for the pods of each newly *failed* identity (key), and for objects
        that have no message yet."""
        for key, reason in failed.items():
            usage = host_view.usages.get(key)
            self._not_applied(usage.active.values() if usage else (), reason)
        for step in outcomes:
            if not isinstance(step, Explain) or step.existing.identity_id is None:
                continue
            # The loop above has recorded the others.
            if step.existing.identity_id.key not in failed or step.identity_at_fault:
                self._not_applied([step.existing], step.message)
            if step.identity_at_fault:
                self._invalid_identity(step.existing, step.message)
                identity = "/".join(step.existing.object.spec.azure_identity_ref.key)
                log.warning(FAULTY, extra={"identity": identity, "error": step.message})

    def lost(self, host_view: HostView, reported: set[tuple[str, str]]) -> None:
        """Record for the pods that wait on a host that Azure no longer knows. Those in *reported* are left out, and the
        others are added to it.
        """
        if host_view.host is None:
            return
        reason = lost(host_view.host)
        active = [existing for usage in host_view.usages.values() for existing in usage.active.values()]
        absent = [
            desired
            for desired, existing in host_view.out_of_sync_assignments()
            if desired and desired.identity_id and not existing
        ]
        self._not_applied((existing for existing in active if _pod_of(existing).key not in reported), reason)
        self._not_created((desired for desired in absent if desired.pod.key not in reported), reason)
        # Also those beyond the limit of Events, which would otherwise get one in each pass.
        reported.update(_pod_of(existing).key for existing in active)
        reported.update(desired.pod.key for desired in absent)

    def _not_applied(self, waiting: Iterable[ExistingAssignment], reason: str) -> None:
        """Record for the first few of *waiting*, objects of one identity, why it is not attached."""
        for existing in islice(waiting, min(EVENTS_PER_IDENTITY_MAX, self._left)):
            spec = existing.object.spec
            message = self._record(spec.azure_binding_ref, _pod_of(existing), existing.node, reason)
            self._recorder.record(existing.object, ASSIGNED_IDENTITIES, "Warning", APPLY_ERROR, message)

    def _invalid_identity(self, existing: ExistingAssignment, reason: str) -> None:
        """Record the reason on the AzureIdentity too, whose author must correct it. Repeats for other pods and hosts
        are counted on one Event."""
        identity = existing.object.spec.azure_identity_ref
        self._recorder.record(identity, IDENTITIES, "Warning", INVALID_IDENTITY, reason)

    def _not_created(self, waiting: Iterable[DesiredAssignment], reason: str) -> None:
        """Record for the first few of *waiting* why they have no object."""
        for desired in islice(waiting, min(EVENTS_PER_IDENTITY_MAX, self._left)):
            self._record(desired.binding, desired.pod, desired.node, reason)

    def _record(self, binding: AzureIdentityBinding, pod: ScheduledPod, node: str, reason: str) -> str:
        self._left -= 1
        return record_not_applied(self._recorder, binding, pod, node, reason)


def record_not_applied(
    recorder: EventRecorder, binding: AzureIdentityBinding, pod: ScheduledPod, node: str, reason: str
) -> str:
    """Record on the binding and on the pod why the pod does not have the identity. Return the message."""
    about = f"on node {node} for pod {pod.metadata.namespace}/{pod.metadata.name}"
    message = f"Binding {'/'.join(binding.key)} not applied {about}: {reason}"
    recorder.record(binding, BINDINGS, "Warning", APPLY_ERROR, message)
    recorder.record(pod, PODS, "Warning", APPLY_ERROR, message)
    return message


def _pod_of(existing: ExistingAssignment) -> ScheduledPod:
    key = existing.assignment_key
    uid = existing.object.metadata.annotation(POD_UID_ANNOTATION)
    return ScheduledPod(metadata=PodMeta(namespace=key.pod_namespace, name=key.pod, uid=uid))


def advice(identity_id: str, error: AzureError) -> str:
    """Return why the identity is not attached and what its author must do."""
    match error.code.lower():
        case "linkedauthorizationfailed":
            then = "grant it the role Managed Identity Operator there"
            if principal := principal_of(error):
                then = role_command(principal, "Managed Identity Operator", identity_id)
            return f"MIC may not assign {identity_id}: {then} ({error.code})"
        case "failedidentityoperation":
            return f"Azure cannot assign {identity_id}: check that it exists ({error.code})"
        case _ if isinstance(error, Missing):
            return f"Azure does not find {identity_id}: check that it and its resource group exist ({error.code})"
        case _:
            return f"Azure did not assign {identity_id}: {error.message}"


def throttled(host: Host, error: AzureError, retry: str) -> str:
    """Return that Azure throttles calls for the host and when MIC tries again (*retry*)."""
    return f"Azure throttles MIC's calls for {host.text} ({error.status_and_code}); {retry}"


def refusal(host: Host, error: AzureError) -> str:
    """Return why Azure refuses to change or show the host and what to do; empty if the failure may be temporary."""
    if not isinstance(error, Refused):
        return ""
    response = error.status_and_code or "no token"
    if isinstance(error, BadIdentities):
        there = ", ".join(sorted(error.ids))
        return f"Azure changes nothing on {host.text} while {there} is on it ({response}): check that this exists"
    group = f"/subscriptions/{host.subscription}/resourceGroups/{host.resource_group}"
    then = "check its credentials and its role there"
    # A deny assignment, or a subnet of another group, has another code: no role on the host's group helps.
    if error.code.lower() == "authorizationfailed" and (principal := principal_of(error)):
        then = role_command(principal, "Virtual Machine Contributor", group)
    return f"Azure refuses MIC on {host.text} ({response}): {then}; MIC tries again every minute"


def delay(host: Host, cause: str) -> str:
    """Return the message for pods after calls for the host have failed for a long time."""
    then = "check the network from MIC to Azure Resource Manager; " if cause == NO_RESPONSE else ""
    return (
        f"calls to Azure for {host.text} have failed for more than a minute ({cause}); {then}MIC keeps retrying, see "
        "its log"
    )


def lost(host: Host) -> str:
    """Return the message for pods on a host that Azure no longer knows."""
    return f"Azure has no {host.text}: see whether it still exists and MIC may read it, or delete its node"
