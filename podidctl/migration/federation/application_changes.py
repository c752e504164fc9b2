"""Writes what workload identity wants, one application after another, and takes it off again.

The service account first, then the label of the pods, which rolls the application out; one that does not come up again
in time gets its former template back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from podidctl.migration import cluster_reader
from podidctl.migration.federation.applications import CHANGEABLE_KINDS, account_annotations, is_rolled_out, label_path
from podidctl.migration.federation.identity_changes import POLL_SECONDS, ReportProgress, patch_object
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
from podidentity.kube.client import Client, object_path
from podidentity.kube.errors import ApiError
from podidentity.resources import Kind, Meta, Resource

ANNOTATIONS: Final = ("metadata", "annotations")


class AnnotatedObject(Resource, frozen=True):
    """Any object, as far as its annotations say what was put on it."""

    metadata: Meta = Meta()


class MarkedObject(msgspec.Struct, frozen=True):
    """An object that something was put on."""

    kind: Kind[Any]
    namespace: str
    name: str
    identity: str

    @property
    def description(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"


async def list_marked(client: Client) -> list[MarkedObject]:
    """What carries a mark of ours: what makes pods first, then service accounts. Raises ApiError."""
    found = []
    for kind in (*CHANGEABLE_KINDS, SERVICE_ACCOUNTS):
        bare = Kind(kind.name, kind.plural, AnnotatedObject, kind.group, kind.version)
        for each in await cluster_reader.list_if_served(client, bare):
            if each.metadata.annotation(PUT_ANNOTATION):
                identity = recorded_identity(each.metadata.annotations or {})
                found.append(MarkedObject(kind, each.metadata.namespace, each.metadata.name, identity))
    return found


class ApplicationChanger:
    """One for a run of a command; *tell* hears each thing as it is done."""

    def __init__(
        self,
        client: Client,
        *,
        timeout: float,
        report: ReportProgress = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._report = report
        self._clock = clock
        self._sleep = sleep

    async def apply(self, application: Application) -> ChangeOutcome:
        """Put on what is wanted, and see the application come up with it."""
        kind = next(each for each in CHANGEABLE_KINDS if each.name == application.kind)
        account, workload = (application.namespace, application.account), (application.namespace, application.name)
        values, label = account_annotations(application), {USE_LABEL: "true"}
        try:
            await patch_object(
                self._client,
                SERVICE_ACCOUNTS,
                account,
                lambda each: put_patch(each, application.identity, ANNOTATIONS, values),
            )
            self._report(f"ServiceAccount {'/'.join(account)}: annotated")
            path = label_path(application.kind)
            await patch_object(
                self._client, kind, workload, lambda each: put_patch(each, application.identity, path, label)
            )
        except ApiError as error:
            do = "run this again, or podidctl migrate rollback --workload-identity"
            return ChangeOutcome(
                about=application.description, ending=ChangeResult.INCOMPLETE, why=error.message, do=do
            )
        self._report(f"{application.description}: labelled, rolling out")
        if await self._wait_for_rollout(kind, workload):
            return ChangeOutcome(about=application.description, ending=ChangeResult.CHANGED)
        why = f"its pods were not all of the new template, and available, within {self._timeout:g} s"
        try:
            await self._remove(kind, workload)
        except (ApiError, UnpatchableError) as error:
            do = "podidctl migrate rollback --workload-identity --yes " + application.identity
            why = f"{why}; the label could not be taken off: {error}"
            return ChangeOutcome(about=application.description, ending=ChangeResult.INCOMPLETE, why=why, do=do)
        do = "see kubectl describe of it and of its pods; then run this again, perhaps with a longer --timeout"
        why = f"{why}, so its label is off again (its service account stays annotated)"
        return ChangeOutcome(about=application.description, ending=ChangeResult.ROLLED_BACK, why=why, do=do)

    async def remove(self, marks: Sequence[MarkedObject]) -> list[ChangeOutcome]:
        """Take off what was put on these. A service account keeps it where a label for the same identity has stayed."""
        outcomes: list[ChangeOutcome] = []
        stayed: set[tuple[str, str]] = set()
        for mark in marks:
            place = (mark.namespace, mark.identity)
            # A mark that cannot be read may be for any identity.
            if mark.kind is SERVICE_ACCOUNTS and stayed & {place, (mark.namespace, "")}:
                why, do = "pods that use it keep their label", "see to these first, then run this again"
                outcomes.append(ChangeOutcome(about=mark.description, ending=ChangeResult.NOT_CHANGED, why=why, do=do))
                continue
            try:
                await self._remove(mark.kind, (mark.namespace, mark.name))
            except (ApiError, UnpatchableError) as error:
                stayed.add(place)
                do = "run this again, or do it by hand"
                outcomes.append(
                    ChangeOutcome(about=mark.description, ending=ChangeResult.NOT_CHANGED, why=str(error), do=do)
                )
                continue
            self._report(f"{mark.description}: what was put on it is off")
            outcomes.append(ChangeOutcome(about=mark.description, ending=ChangeResult.CHANGED))
        return outcomes

    async def _remove(self, kind: Kind[Any], key: tuple[str, str]) -> None:
        path = ANNOTATIONS if kind is SERVICE_ACCOUNTS else label_path(kind.name)
        await patch_object(self._client, kind, key, lambda each: removal_patch(each, path))

    async def _wait_for_rollout(self, kind: Kind[Any], key: tuple[str, str]) -> bool:
        until = self._clock() + self._timeout
        while True:
            try:
                document = msgspec.json.decode(await self._client.request("GET", object_path(kind, *key)))
                if is_rolled_out(kind.name, document):
                    return True
            except ApiError as error:
                self._report(f"{kind.name} {'/'.join(key)}: {error.message}")
            if self._clock() >= until:
                return False
            await self._sleep(POLL_SECONDS)
