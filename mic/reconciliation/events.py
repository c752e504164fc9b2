"""What MIC says in Events about identities that are not where they should be: to whoever made them, and to whose pods
wait for them.

Said on the binding, in the reference's words, on the pod and on the AzureAssignedIdentity. Bounded: thousands of pods
may wait for one identity, and the message of each object says it too. Successes are told on bindings alone
(`writing`).
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from mic.azure.errors import AzureError, BadIdentities, Missing, Refused
from mic.decisions.assignments import DesiredAssignment, ExistingAssignment
from podidentity.azure.resource_ids import Host
from podidentity.kube.events import EventRecorder
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDINGS,
    IDENTITIES,
    POD_UID_ANNOTATION,
    PODS,
    AzureIdentityBinding,
    Pod,
    PodMeta,
)

APPLIED: Final = "binding applied"
REMOVED: Final = "binding removed"
APPLY_ERROR: Final = "binding apply error"
INVALID_IDENTITY: Final = "invalid identity"
"""Reasons of Events as the reference words them: people's alerts look for them."""

EVENTS_PER_IDENTITY_MAX: Final = 10
"""Of how many pods Events tell that one identity is not on their host."""
EVENTS_PER_PASS_MAX: Final = 30
"""The same, for one host at one time: its identities may all be refused at once."""


class AssignmentEvents:
    """Tells of one host's round: make one for each."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._left = EVENTS_PER_PASS_MAX

    def not_applied(self, waiting: Iterable[ExistingAssignment], why: str) -> None:
        """Say for the first few of *waiting*, objects of one identity, why it is not on their host."""
        for existing in islice(waiting, min(EVENTS_PER_IDENTITY_MAX, self._left)):
            spec = existing.object.spec
            message = self._say(spec.azure_binding_ref, _pod_of(existing), existing.node, why)
            self._recorder.record(existing.object, ASSIGNED_IDENTITIES, "Warning", APPLY_ERROR, message)

    def invalid_identity(self, existing: ExistingAssignment, why: str) -> None:
        """Say why it is not on its host on the AzureIdentity too, which has to be corrected. Its repeats for other pods
        and hosts are counted on one Event."""
        identity = existing.object.spec.azure_identity_ref
        self._recorder.record(identity, IDENTITIES, "Warning", INVALID_IDENTITY, why)

    def not_created(self, wanted: Iterable[DesiredAssignment], why: str) -> None:
        """Say for the first few of *wanted* why there is not even an object for them."""
        for desired in islice(wanted, min(EVENTS_PER_IDENTITY_MAX, self._left)):
            self._say(desired.binding, desired.pod, desired.node, why)

    def _say(self, binding: AzureIdentityBinding, pod: Pod, node: str, why: str) -> str:
        self._left -= 1
        about = f"on node {node} for pod {pod.metadata.namespace}/{pod.metadata.name}"
        message = f"Binding {binding.metadata.name} not applied {about}: {why}"
        self._recorder.record(binding, BINDINGS, "Warning", APPLY_ERROR, message)
        self._recorder.record(pod, PODS, "Warning", APPLY_ERROR, message)
        return message


def _pod_of(existing: ExistingAssignment) -> Pod:
    key = existing.assignment_key
    uid = existing.object.metadata.annotation(POD_UID_ANNOTATION)
    return Pod(metadata=PodMeta(namespace=key.pod_namespace, name=key.pod, uid=uid))


def advice(identity_id: str, error: AzureError) -> str:
    """Why the identity is not on the host, and what to do, for whoever made it."""
    match error.code.lower():
        case "linkedauthorizationfailed":
            return f"MIC may not assign {identity_id}: grant it the role Managed Identity Operator there ({error.code})"
        case "failedidentityoperation":
            return f"Azure cannot assign {identity_id}: check that it exists ({error.code})"
        case _ if isinstance(error, Missing):
            return f"Azure does not find {identity_id}: check that it and its resource group exist ({error.code})"
        case _:
            return f"Azure did not assign {identity_id}: {error.message}"


def refusal(host: Host, error: AzureError) -> str:
    """Why Azure changes nothing on the host, or shows nothing of it, and what to do; empty where time may cure it."""
    if not isinstance(error, Refused):
        return ""
    told = " ".join(filter(None, (str(error.status or ""), error.code))) or "no token"
    if isinstance(error, BadIdentities):
        there = ", ".join(sorted(error.ids))
        return f"Azure changes nothing on {host.text} while {there} is on it ({told}): check that this exists"
    return f"Azure refuses MIC on {host.text} ({told}): check its credentials and its role there"


def delay(host: Host) -> str:
    """What whoever waits is told when calls about the host have failed for long; the same words whatever the failure,
    so that each object is written once."""
    return f"Azure has not let MIC work on {host.text} for a minute and more; MIC goes on trying, and its log says why"
