"""Writes what workload identity wants, one application after another, and takes it off again.

The service account first, then the label of the pods, which rolls the application out; one that does not come up again
in time gets its former template back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from podidctl.migration import survey
from podidctl.migration.federation.applications import CHANGED, is_rolled_out, label_path, written_on_account
from podidctl.migration.federation.marks import PUT, UnfitError, put, put_for, taken_off
from podidctl.migration.federation.shapes import Application, Ending, Outcome
from podidctl.migration.federation.switching import POLL_SECONDS, Tell, patched
from podidctl.migration.shapes import SERVICE_ACCOUNTS
from podidctl.migration.workload_identity import USE_LABEL
from podidentity.kube.client import Client, object_path
from podidentity.kube.errors import ApiError
from podidentity.resources import Kind, Meta, Resource

ANNOTATIONS: Final = ("metadata", "annotations")


class Annotated(Resource, frozen=True):
    """Any object, as far as its annotations say what was put on it."""

    metadata: Meta = Meta()


class Mark(msgspec.Struct, frozen=True):
    """An object that something was put on."""

    kind: Kind[Any]
    namespace: str
    name: str
    identity: str

    @property
    def told(self) -> str:
        return f"{self.kind.name} {self.namespace}/{self.name}"


async def marked(client: Client) -> list[Mark]:
    """What carries a mark of ours: what makes pods first, then service accounts. Raises ApiError."""
    found = []
    for kind in (*CHANGED, SERVICE_ACCOUNTS):
        bare = Kind(kind.name, kind.plural, Annotated, kind.group, kind.version)
        for each in await survey.served(client, bare):
            if each.metadata.annotation(PUT):
                identity = put_for(each.metadata.annotations or {})
                found.append(Mark(kind, each.metadata.namespace, each.metadata.name, identity))
    return found


class Applying:
    """One for a run of a command; *tell* hears each thing as it is done."""

    def __init__(
        self,
        client: Client,
        *,
        timeout: float,
        tell: Tell = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._tell = tell
        self._clock = clock
        self._sleep = sleep

    async def put(self, application: Application) -> Outcome:
        """Put on what is wanted, and see the application come up with it."""
        kind = next(each for each in CHANGED if each.name == application.kind)
        account, workload = (application.namespace, application.account), (application.namespace, application.name)
        values, label = written_on_account(application), {USE_LABEL: "true"}
        try:
            await patched(
                self._client,
                SERVICE_ACCOUNTS,
                account,
                lambda each: put(each, application.identity, ANNOTATIONS, values),
            )
            self._tell(f"ServiceAccount {'/'.join(account)}: annotated")
            path = label_path(application.kind)
            await patched(self._client, kind, workload, lambda each: put(each, application.identity, path, label))
        except ApiError as error:
            do = "run this again, or podidctl migrate rollback --workload-identity"
            return Outcome(about=application.told, ending=Ending.UNCLEAR, why=error.message, do=do)
        self._tell(f"{application.told}: labelled, rolling out")
        if await self._rolled_out(kind, workload):
            return Outcome(about=application.told, ending=Ending.CHANGED)
        why = f"its pods were not all of the new template, and available, within {self._timeout:g} s"
        try:
            await self._take_off(kind, workload)
        except (ApiError, UnfitError) as error:
            do = "podidctl migrate rollback --workload-identity --yes " + application.identity
            why = f"{why}; the label could not be taken off: {error}"
            return Outcome(about=application.told, ending=Ending.UNCLEAR, why=why, do=do)
        do = "see kubectl describe of it and of its pods; then run this again, perhaps with a longer --timeout"
        why = f"{why}, so its label is off again (its service account stays annotated)"
        return Outcome(about=application.told, ending=Ending.TAKEN_BACK, why=why, do=do)

    async def take_off(self, marks: Sequence[Mark]) -> list[Outcome]:
        """Take off what was put on these. A service account keeps it where a label for the same identity has stayed."""
        outcomes: list[Outcome] = []
        stayed: set[tuple[str, str]] = set()
        for mark in marks:
            place = (mark.namespace, mark.identity)
            # A mark that cannot be read may be for any identity.
            if mark.kind is SERVICE_ACCOUNTS and stayed & {place, (mark.namespace, "")}:
                why, do = "pods that use it keep their label", "see to these first, then run this again"
                outcomes.append(Outcome(about=mark.told, ending=Ending.LEFT, why=why, do=do))
                continue
            try:
                await self._take_off(mark.kind, (mark.namespace, mark.name))
            except (ApiError, UnfitError) as error:
                stayed.add(place)
                do = "run this again, or do it by hand"
                outcomes.append(Outcome(about=mark.told, ending=Ending.LEFT, why=str(error), do=do))
                continue
            self._tell(f"{mark.told}: what was put on it is off")
            outcomes.append(Outcome(about=mark.told, ending=Ending.CHANGED))
        return outcomes

    async def _take_off(self, kind: Kind[Any], key: tuple[str, str]) -> None:
        path = ANNOTATIONS if kind is SERVICE_ACCOUNTS else label_path(kind.name)
        await patched(self._client, kind, key, lambda each: taken_off(each, path))

    async def _rolled_out(self, kind: Kind[Any], key: tuple[str, str]) -> bool:
        until = self._clock() + self._timeout
        while True:
            try:
                document = msgspec.json.decode(await self._client.request("GET", object_path(kind, *key)))
                if is_rolled_out(kind.name, document):
                    return True
            except ApiError as error:
                self._tell(f"{kind.name} {'/'.join(key)}: {error.message}")
            if self._clock() >= until:
                return False
            await self._sleep(POLL_SECONDS)
