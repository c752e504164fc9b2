"""Makes AzureIdentities federated, one at a time, and takes that back: each in one patch that holds what it rests on.

Between any two calls the process may end: an identity is then either as it was, or of type 3 with its way back noted
on it, and the next `apply` waits for MIC where this one would have.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from podidctl.migration.federation.following import behind
from podidctl.migration.federation.marks import Document, Operations, UnfitError, back, is_marked, switched
from podidctl.migration.federation.shapes import Ending, Outcome, State, Step, Tried
from podidctl.migration.shapes import RUNNING_PODS
from podidentity.kube.client import Client, object_path
from podidentity.kube.decoding import decode_object
from podidentity.kube.errors import ApiError, Conflict, Invalid, NotFound
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    AzureIdentity,
    Kind,
)

TRIES: Final = 3
"""Of a patch whose object somebody else has changed since it was read."""
POLL_SECONDS: Final = 1.0
CLUSTER_WIDE: Final = "default"
"""Where the assigned identities of identities are that serve every namespace."""

Tell = Callable[[str], None]


async def patched(
    client: Client, kind: Kind[Any], key: tuple[str, str], operations: Callable[[Document], Operations]
) -> Document:
    """The object after *operations* out of what it is; read anew where it has changed meanwhile.

    Raises ApiError, and UnfitError out of *operations*.
    """
    path = object_path(kind, *key)
    for attempt in range(1, TRIES + 1):
        document = msgspec.json.decode(await client.request("GET", path))
        try:
            body = msgspec.json.encode(operations(document))
            told = await client.request("PATCH", path, body=body, content_type="application/json-patch+json")
        except (Invalid, Conflict):
            if attempt == TRIES:
                raise
        else:
            found: Document = msgspec.json.decode(told)
            return found
    raise AssertionError("unreachable")


class Switching:
    """One for a run of a command. *managed*: there is no MIC to wait for. *tell* hears each thing as it is done."""

    def __init__(
        self,
        client: Client,
        *,
        managed: bool,
        timeout: float,
        tell: Tell = lambda _line: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._managed = managed
        self._timeout = timeout
        self._tell = tell
        self._clock = clock
        self._sleep = sleep

    async def switch(self, step: Step, tried: list[Tried]) -> Outcome:
        """Switch what is of type 0, then see MIC follow; go on with what an earlier run has begun."""
        if step.state is State.TO_DO:
            try:
                await patched(self._client, IDENTITIES, step.key, lambda each: switched(each, step.tenant))
            except (ApiError, UnfitError) as error:
                return _left(step.identity, error, "switched", tried)
            self._tell(f"{step.identity}: switched to type 3")
        seconds, lacking = await self._followed(step.key)
        if not lacking:
            self._tell(f"{step.identity}: {_followed_text(seconds, managed=self._managed)}")
            return Outcome(about=step.identity, ending=Ending.CHANGED, tried=tried)
        why = f"MIC had not followed within {self._timeout:g} s for {', '.join(lacking[:3])}"
        self._tell(f"{step.identity}: {why}; going back")
        return await self._taken_back(step, why, tried)

    async def back(self, key: tuple[str, str]) -> Outcome:
        """What it was before."""
        about = "/".join(key)
        try:
            kept = await self._set_back(key)
        except (ApiError, UnfitError) as error:
            return _left(about, error, "taken back", [])
        self._tell(f"{about}: is of type 0 again")
        seconds, lacking = await self._followed(key)
        why = f"left as somebody has changed it since: spec.{', spec.'.join(kept)}" if kept else ""
        if not lacking:
            self._tell(f"{about}: {_followed_text(seconds, managed=self._managed)}")
            return Outcome(about=about, ending=Ending.CHANGED, why=why)
        return Outcome(
            about=about,
            ending=Ending.UNCLEAR,
            why="; ".join(filter(None, [f"MIC has not followed yet for {', '.join(lacking[:3])}", why])),
            do="wait, and see kubectl get azureassignedidentity -A; Azure takes up to minutes to put it on a VM",
        )

    async def _set_back(self, key: tuple[str, str]) -> tuple[str, ...]:
        kept: list[tuple[str, ...]] = []

        def operations(document: Document) -> Operations:
            if not is_marked(document):
                raise UnfitError("nothing is noted on it that says what it was")
            way = back(document)
            kept.append(way.kept)
            return way.operations

        await patched(self._client, IDENTITIES, key, operations)
        return kept[-1]

    async def _taken_back(self, step: Step, why: str, tried: list[Tried]) -> Outcome:
        for attempt in range(1, TRIES + 1):
            try:
                await self._set_back(step.key)
            except (ApiError, UnfitError) as error:
                if attempt == TRIES:
                    return Outcome(
                        about=step.identity,
                        ending=Ending.UNCLEAR,
                        why=f"{why}; and it could not be taken back: {_said(error)}",
                        do=f"podidctl migrate rollback --yes {step.identity}",
                        tried=tried,
                    )
                await self._sleep(POLL_SECONDS)
            else:
                break
        do = "see MIC's log, and podidctl doctor; then run this again, perhaps with a longer --timeout"
        return Outcome(
            about=step.identity, ending=Ending.TAKEN_BACK, why=f"{why}, so it is of type 0 again", do=do, tried=tried
        )

    async def _followed(self, key: tuple[str, str]) -> tuple[float, list[str]]:
        """After how many seconds MIC had followed, and the pods for which it had not until the end."""
        began = self._clock()
        lacking: list[str] = []
        while not self._managed:
            try:
                lacking = await self._behind(key)
            except NotFound:
                break  # the identity is gone, and with it what to wait for
            except ApiError as error:
                lacking = lacking or [f"(not known: {error.message})"]
            if not lacking or self._clock() - began >= self._timeout:
                break
            await self._sleep(POLL_SECONDS)
        return self._clock() - began, lacking

    async def _behind(self, key: tuple[str, str]) -> list[str]:
        namespace = key[0]
        identity: AzureIdentity = decode_object(
            IDENTITIES, await self._client.request("GET", object_path(IDENTITIES, *key))
        )
        assigned = [
            each
            for place in dict.fromkeys((namespace, CLUSTER_WIDE))
            for each in await self._client.list(ASSIGNED_IDENTITIES, place)
        ]
        pods = await self._client.list(RUNNING_PODS, namespace, label_selector=BINDING_LABEL)
        return behind(pods, await self._client.list(BINDINGS, namespace), identity, assigned)


def _followed_text(seconds: float, *, managed: bool) -> str:
    if managed:
        return "there is no MIC to wait for"
    return f"MIC has followed for all of its pods ({seconds:.1f} s)"


def _left(about: str, error: ApiError | UnfitError, what: str, tried: list[Tried]) -> Outcome:
    """Nothing was written, or that is not known: the API server did not answer."""
    unclear = isinstance(error, ApiError) and not error.status
    return Outcome(
        about=about,
        ending=Ending.UNCLEAR if unclear else Ending.LEFT,
        why=f"it {'may not have been' if unclear else 'was not'} {what}: {_said(error)}",
        do="run podidctl migrate plan, which tells how it stands",
        tried=tried,
    )


def _said(error: ApiError | UnfitError) -> str:
    return error.message if isinstance(error, ApiError) else str(error)
