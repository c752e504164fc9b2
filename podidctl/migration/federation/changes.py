"""Changes of AzureIdentities to federated ones and of applications for workload identity, and their rollback: one
object after the other, with one conditional patch each.

The process may end between any two requests. An identity is then unchanged, or of type 3 with its former state
recorded, and the next `apply` continues with the wait for MIC. Of an application the service account is annotated
first. The label of the pods follows and starts a rollout. If the rollout does not complete in time, the former template
is restored.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from podidctl.facts.workloads import CRON_JOBS, DAEMON_SETS, DEPLOYMENTS
from podidctl.migration import cluster_reader
from podidctl.migration.federation.applications import CHANGEABLE_KINDS
from podidctl.migration.federation.identity_users import lagging_pods
from podidctl.migration.federation.json_patches import (
    ANNOTATIONS,
    PUT_ANNOTATION,
    Document,
    Operations,
    UnpatchableError,
    put_patch,
    recorded_identity,
    removal_patch,
    rollback_patch,
    switch_patch,
)
from podidctl.migration.federation.schema import (
    Application,
    ChangeOutcome,
    ChangeResult,
    IdentityState,
    IdentityStep,
)
from podidctl.migration.workload_identity import CLIENT_ID, TENANT_ID, USE_LABEL
from podidctl.migration.workloads import SERVICE_ACCOUNTS
from podidctl.reading.objects import get_document
from podidentity.kube.client import JSON_PATCH, Client
from podidentity.kube.errors import ApiError, Conflict, Invalid, NotFound
from podidentity.kube.paths import object_path
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    SCHEDULED_PODS,
    Kind,
    Meta,
    Resource,
    Wire,
)

ATTEMPTS: Final = 3
"""Attempts for a patch whose object has changed since it was read."""
POLL_SECONDS: Final = 1.0
CLUSTER_WIDE_NAMESPACE: Final = "default"
"""Namespace of the AzureAssignedIdentities of identities that serve every namespace."""
LABELS: Final = ("spec", "template", "metadata", "labels")


@dataclass(frozen=True, kw_only=True)
class _Changer:
    client: Client
    timeout: float
    """Time limit in seconds of the wait for MIC, or for the rollout of one application."""
    report: Callable[[str], None]
    """Receives each progress line."""

    async def patch(
        self, kind: Kind[Any], key: tuple[str, str], operations: Callable[[Document], Operations]
    ) -> Document:
        """Patch the object with *operations* computed from its current state; read it again if it has changed in
        between. Return the state before.

        Raises ApiError, and UnpatchableError from *operations*.
        """
        path = object_path(kind, *key)
        for attempt in range(1, ATTEMPTS + 1):
            document = await get_document(self.client, kind, *key)
            try:
                body = msgspec.json.encode(operations(document))
                await self.client.request("PATCH", path, body=body, content_type=JSON_PATCH)
            except (Invalid, Conflict):  # Invalid: a `test` operation failed
                if attempt == ATTEMPTS:
                    raise
            else:
                return document
        raise AssertionError("not reached")


@dataclass(frozen=True, kw_only=True)
class IdentityChanger(_Changer):
    """Switches identities, and rolls them back."""

    managed: bool
    """Whether NMI runs in managed mode: there is no MIC to wait for."""

    async def switch(self, step: IdentityStep) -> ChangeOutcome:
        """Switch an identity of type 0, then wait for MIC. Continues the work of an interrupted run."""
        if step.state is IdentityState.TO_DO:
            try:
                await self.patch(IDENTITIES, step.key, lambda document: switch_patch(document, step.tenant))
            except (ApiError, UnpatchableError) as error:
                return _not_changed(step.full_name, error, "switched")
            self.report(f"{step.full_name}: switched to type 3")
        lacking = await self._wait_for_mic(step.key)
        if not lacking:
            return ChangeOutcome(step.full_name, ChangeResult.CHANGED)
        reason = f"MIC has not updated {', '.join(lacking[:3])} within {self.timeout:g} s"
        self.report(f"{step.full_name}: {reason}; rolling back")
        return await self._roll_back(step, reason)

    async def rollback(self, key: tuple[str, str]) -> ChangeOutcome:
        """Restore the former state."""
        about = "/".join(key)
        try:
            kept = await self._apply_rollback(key)
        except (ApiError, UnpatchableError) as error:
            return _not_changed(about, error, "rolled back")
        self.report(f"{about}: type 0 again")
        lacking = await self._wait_for_mic(key)
        reason = f"kept because it was changed since: spec.{', spec.'.join(kept)}" if kept else ""
        if not lacking:
            return ChangeOutcome(about, ChangeResult.CHANGED, reason)
        reason = "; ".join(filter(None, [f"MIC has not updated {', '.join(lacking[:3])} yet", reason]))
        do = "wait, and see kubectl get azureassignedidentity -A; Azure can take minutes to attach it to a VM"
        return ChangeOutcome(about, ChangeResult.INCOMPLETE, reason, do)

    async def _apply_rollback(self, key: tuple[str, str]) -> tuple[str, ...]:
        """Restore the former state. Return the fields that keep their current value."""
        before = await self.patch(IDENTITIES, key, lambda document: rollback_patch(document)[0])
        # From the state that was patched, because an earlier attempt may have been for another one.
        return rollback_patch(before)[1]

    async def _roll_back(self, step: IdentityStep, reason: str) -> ChangeOutcome:
        # One failed request must not leave an identity of type 3 that MIC has not followed.
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._apply_rollback(step.key)
            except (ApiError, UnpatchableError) as error:
                if attempt == ATTEMPTS:
                    reason = f"{reason}; and the rollback failed: {_error_text(error)}"
                    do = f"podidctl migrate rollback --yes {step.full_name}"
                    return ChangeOutcome(step.full_name, ChangeResult.INCOMPLETE, reason, do)
                await asyncio.sleep(POLL_SECONDS)
            else:
                break
        reason = f"{reason}, so it is of type 0 again"
        do = "see MIC's log and podidctl doctor; then run this command again, perhaps with a longer --timeout"
        return ChangeOutcome(step.full_name, ChangeResult.ROLLED_BACK, reason, do)

    async def _wait_for_mic(self, key: tuple[str, str]) -> list[str]:
        """Wait for MIC, and report its success. Return the pods that MIC has not updated."""
        began = time.monotonic()
        lacking: list[str] = []
        while not self.managed:
            try:
                lacking = await self._lagging_pods(key)
            except NotFound:
                break  # the identity was deleted
            except ApiError as error:
                # A failed read is no progress: the pods of the last read still count.
                lacking = lacking or [f"(unknown: {error.message})"]
            if not lacking or time.monotonic() - began >= self.timeout:
                break
            await asyncio.sleep(POLL_SECONDS)
        if not lacking:
            updated = f"MIC has updated all of its pods ({time.monotonic() - began:.1f} s)"
            self.report(f"{'/'.join(key)}: {'there is no MIC to wait for' if self.managed else updated}")
        return lacking

    async def _lagging_pods(self, key: tuple[str, str]) -> list[str]:
        namespace = key[0]
        identity = await self.client.get(IDENTITIES, *key)
        assigned = [
            item
            for place in dict.fromkeys((namespace, CLUSTER_WIDE_NAMESPACE))
            for item in await self.client.list(ASSIGNED_IDENTITIES, place)
        ]
        pods = await self.client.list(SCHEDULED_PODS, namespace, label_selector=BINDING_LABEL)
        return lagging_pods(pods, await self.client.list(BINDINGS, namespace), identity, assigned)


def _not_changed(about: str, error: ApiError | UnpatchableError, what: str) -> ChangeOutcome:
    """Return the outcome if nothing was written, or if that is unknown because the API server did not respond."""
    unclear = isinstance(error, ApiError) and not error.status
    return ChangeOutcome(
        about,
        ChangeResult.INCOMPLETE if unclear else ChangeResult.NOT_CHANGED,
        f"it {'may not have been' if unclear else 'was not'} {what}: {_error_text(error)}",
        "run podidctl migrate plan, which shows the current state",
    )


def _error_text(error: ApiError | UnpatchableError) -> str:
    return error.message if isinstance(error, ApiError) else str(error)


class RolloutMeta(Meta, frozen=True):
    generation: int = 0


class RolloutSpec(Wire, frozen=True):
    replicas: int = 1


class RolloutStatus(Wire, frozen=True):
    """The counts of a Deployment, StatefulSet or DaemonSet, each of which has some of them."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    desired_number_scheduled: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0


class Rollout(Resource, frozen=True):
    """A workload with the progress of its rollout, or a service account."""

    metadata: RolloutMeta = RolloutMeta()
    spec: RolloutSpec = RolloutSpec()
    status: RolloutStatus = RolloutStatus()


@dataclass(frozen=True)
class MarkedObject:
    """A workload or service account that this command has changed."""

    kind: Kind[Any]
    namespace: str
    name: str
    identity: str

    @property
    def description(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"


async def list_marked(client: Client) -> list[MarkedObject]:
    """Return the changed objects: workloads first, then service accounts. Raises ApiError."""
    marked = []
    for kind in (*CHANGEABLE_KINDS, SERVICE_ACCOUNTS):
        for item in await cluster_reader.list_if_served(client, _with_rollout(kind)):
            if item.metadata.annotation(PUT_ANNOTATION):
                identity = recorded_identity(item.metadata.annotations or {})
                marked.append(MarkedObject(kind, *item.key, identity))
    return marked


class ApplicationChanger(_Changer):
    """Changes applications, and removes the changes."""

    async def apply(self, application: Application) -> ChangeOutcome:
        """Annotate and label *application*, then wait for its rollout."""
        about = application.description
        kind = next(kind for kind in CHANGEABLE_KINDS if kind.name == application.kind)
        account, workload = (application.namespace, application.account), (application.namespace, application.name)
        annotations = {CLIENT_ID: application.client_id, TENANT_ID: application.tenant_id}
        label, path = {USE_LABEL: "true"}, _changed_path(kind)
        # The webhook reads the annotations when a pod is created, and the label starts new pods.
        try:
            await self.patch(
                SERVICE_ACCOUNTS,
                account,
                lambda document: put_patch(document, application.identity, ANNOTATIONS, annotations),
            )
            self.report(f"ServiceAccount {'/'.join(account)}: annotated")
            await self.patch(kind, workload, lambda document: put_patch(document, application.identity, path, label))
        except ApiError as error:
            do = "run this command again, or podidctl migrate rollback --workload-identity"
            return ChangeOutcome(about, ChangeResult.INCOMPLETE, error.message, do)
        self.report(f"{about}: labelled, rollout in progress")
        if await self._wait_for_rollout(kind, workload):
            return ChangeOutcome(about, ChangeResult.CHANGED)
        reason = f"its pods were not all updated and available within {self.timeout:g} s"
        try:
            await self._remove(kind, workload)
        except (ApiError, UnpatchableError) as error:
            do = "podidctl migrate rollback --workload-identity --yes " + application.identity
            return ChangeOutcome(
                about, ChangeResult.INCOMPLETE, f"{reason}; the label could not be removed: {error}", do
            )
        do = "see kubectl describe of it and of its pods; then run this command again, perhaps with a longer --timeout"
        reason = f"{reason}, so its label is removed again (its service account stays annotated)"
        return ChangeOutcome(about, ChangeResult.ROLLED_BACK, reason, do)

    async def remove(self, marks: Sequence[MarkedObject]) -> list[ChangeOutcome]:
        """Remove the changes. A service account keeps its annotations while a workload keeps a label for the same
        identity.
        """
        outcomes: list[ChangeOutcome] = []
        stayed: set[tuple[str, str]] = set()
        for mark in marks:
            place = (mark.namespace, mark.identity)
            # An unreadable record may be for any identity.
            if mark.kind is SERVICE_ACCOUNTS and stayed & {place, (mark.namespace, "")}:
                reason, do = (
                    "pods that use it still have their label",
                    "resolve these first, then run this command again",
                )
                outcomes.append(ChangeOutcome(mark.description, ChangeResult.NOT_CHANGED, reason, do))
                continue
            try:
                await self._remove(mark.kind, (mark.namespace, mark.name))
            except (ApiError, UnpatchableError) as error:
                stayed.add(place)
                do = "run this command again, or change it manually"
                outcomes.append(ChangeOutcome(mark.description, ChangeResult.NOT_CHANGED, str(error), do))
                continue
            self.report(f"{mark.description}: changes removed")
            outcomes.append(ChangeOutcome(mark.description, ChangeResult.CHANGED))
        return outcomes

    async def _remove(self, kind: Kind[Any], key: tuple[str, str]) -> None:
        await self.patch(kind, key, lambda document: removal_patch(document, _changed_path(kind)))

    async def _wait_for_rollout(self, kind: Kind[Any], key: tuple[str, str]) -> bool:
        until = time.monotonic() + self.timeout
        while True:
            try:
                if is_rolled_out(kind.name, await self.client.get(_with_rollout(kind), *key)):
                    return True
            except ApiError as error:
                self.report(f"{kind.name} {'/'.join(key)}: {error.message}")
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(POLL_SECONDS)


def is_rolled_out(kind: str, workload: Rollout) -> bool:
    """Return whether every desired pod of *workload* (of *kind*) has the current template and is available."""
    status, wanted = workload.status, workload.spec.replicas
    if kind == CRON_JOBS.name:
        return True  # its next job uses the new template
    if status.observed_generation < workload.metadata.generation:
        return False
    if kind == DAEMON_SETS.name:
        wanted = status.desired_number_scheduled
        return status.updated_number_scheduled >= wanted and status.number_available >= wanted
    ready = status.available_replicas if kind == DEPLOYMENTS.name else status.ready_replicas
    # Only a Deployment keeps old pods next to new ones.
    old = status.replicas - status.updated_replicas if kind == DEPLOYMENTS.name else 0
    return status.updated_replicas >= wanted and ready >= wanted and old <= 0


def _with_rollout(kind: Kind[Any]) -> Kind[Rollout]:
    return Kind(kind.name, kind.plural, Rollout, kind.group, kind.version)


def _changed_path(kind: Kind[Any]) -> tuple[str, ...]:
    """Return the path of the map that this command changes: annotations of a service account, labels of the pods."""
    if kind is SERVICE_ACCOUNTS:
        return ANNOTATIONS
    return ("spec", "jobTemplate", *LABELS) if kind is CRON_JOBS else LABELS
