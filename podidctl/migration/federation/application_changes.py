"""Changes of applications for workload identity, one application after the other, and their rollback.

The service account is annotated first. The label of the pods follows and starts a rollout. If the rollout does not
complete in time, the former template is restored.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from podidctl.migration import cluster_reader
from podidctl.migration.federation.applications import CHANGEABLE_KINDS, account_annotations, is_rolled_out, label_path
from podidctl.migration.federation.change_context import POLL_SECONDS, ChangeContext
from podidctl.migration.federation.json_patches import (
    PUT_ANNOTATION,
    UnpatchableError,
    put_patch,
    recorded_identity,
    removal_patch,
)
from podidctl.migration.federation.schema import Application, ChangeOutcome, ChangeResult
from podidctl.migration.projections import SERVICE_ACCOUNTS
from podidctl.migration.workload_identity import USE_LABEL
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from podidentity.kube.paths import object_path
from podidentity.resources import Kind, Meta, Resource

ANNOTATIONS: Final = ("metadata", "annotations")


class AnnotatedObject(Resource, frozen=True):
    """Any object with its annotations."""

    metadata: Meta = Meta()


class MarkedObject(msgspec.Struct, frozen=True):
    """An object that this command has changed."""

    kind: Kind[Any]
    namespace: str
    name: str
    identity: str

    @property
    def description(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"


async def list_marked(client: Client) -> list[MarkedObject]:
    """Return the changed objects: workloads first, then service accounts. Raises ApiError."""
    found = []
    for kind in (*CHANGEABLE_KINDS, SERVICE_ACCOUNTS):
        bare = Kind(kind.name, kind.plural, AnnotatedObject, kind.group, kind.version)
        for each in await cluster_reader.list_if_served(client, bare):
            if each.metadata.annotation(PUT_ANNOTATION):
                identity = recorded_identity(each.metadata.annotations or {})
                found.append(MarkedObject(kind, each.metadata.namespace, each.metadata.name, identity))
    return found


class ApplicationChanger:
    """Changes applications, and removes the changes."""

    def __init__(self, context: ChangeContext) -> None:
        self._context = context

    async def apply(self, application: Application) -> ChangeOutcome:
        """Annotate and label *application*, then wait for its rollout."""
        kind = next(each for each in CHANGEABLE_KINDS if each.name == application.kind)
        account, workload = (application.namespace, application.account), (application.namespace, application.name)
        values, label = account_annotations(application), {USE_LABEL: "true"}
        try:
            await self._context.patch(
                SERVICE_ACCOUNTS,
                account,
                lambda each: put_patch(each, application.identity, ANNOTATIONS, values),
            )
            self._context.report(f"ServiceAccount {'/'.join(account)}: annotated")
            path = label_path(application.kind)
            await self._context.patch(kind, workload, lambda each: put_patch(each, application.identity, path, label))
        except ApiError as error:
            do = "run this command again, or podidctl migrate rollback --workload-identity"
            return ChangeOutcome(
                about=application.description, ending=ChangeResult.INCOMPLETE, why=error.message, do=do
            )
        self._context.report(f"{application.description}: labelled, rollout in progress")
        if await self._wait_for_rollout(kind, workload):
            return ChangeOutcome(about=application.description, ending=ChangeResult.CHANGED)
        why = f"its pods were not all updated and available within {self._context.timeout:g} s"
        try:
            await self._remove(kind, workload)
        except (ApiError, UnpatchableError) as error:
            do = "podidctl migrate rollback --workload-identity --yes " + application.identity
            why = f"{why}; the label could not be removed: {error}"
            return ChangeOutcome(about=application.description, ending=ChangeResult.INCOMPLETE, why=why, do=do)
        do = "see kubectl describe of it and of its pods; then run this command again, perhaps with a longer --timeout"
        why = f"{why}, so its label is removed again (its service account stays annotated)"
        return ChangeOutcome(about=application.description, ending=ChangeResult.ROLLED_BACK, why=why, do=do)

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
                why, do = "pods that use it still have their label", "resolve these first, then run this command again"
                outcomes.append(ChangeOutcome(about=mark.description, ending=ChangeResult.NOT_CHANGED, why=why, do=do))
                continue
            try:
                await self._remove(mark.kind, (mark.namespace, mark.name))
            except (ApiError, UnpatchableError) as error:
                stayed.add(place)
                do = "run this command again, or change it manually"
                outcomes.append(
                    ChangeOutcome(about=mark.description, ending=ChangeResult.NOT_CHANGED, why=str(error), do=do)
                )
                continue
            self._context.report(f"{mark.description}: changes removed")
            outcomes.append(ChangeOutcome(about=mark.description, ending=ChangeResult.CHANGED))
        return outcomes

    async def _remove(self, kind: Kind[Any], key: tuple[str, str]) -> None:
        path = ANNOTATIONS if kind is SERVICE_ACCOUNTS else label_path(kind.name)
        await self._context.patch(kind, key, lambda each: removal_patch(each, path))

    async def _wait_for_rollout(self, kind: Kind[Any], key: tuple[str, str]) -> bool:
        until = self._context.clock() + self._context.timeout
        while True:
            try:
                document = msgspec.json.decode(await self._context.client.request("GET", object_path(kind, *key)))
                if is_rolled_out(kind.name, document):
                    return True
            except ApiError as error:
                self._context.report(f"{kind.name} {'/'.join(key)}: {error.message}")
            if self._context.clock() >= until:
                return False
            await self._context.sleep(POLL_SECONDS)
