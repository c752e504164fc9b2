"""Changes of AzureIdentities to federated ones, one after the other, and their rollback; one conditional patch each.

The process may end between any two requests. An identity is then unchanged, or of type 3 with its former state
recorded, and the next `apply` continues with the wait for MIC.
"""

from typing import Final

from podidctl.migration.federation.change_context import ATTEMPTS, POLL_SECONDS, ChangeContext
from podidctl.migration.federation.json_patches import (
    Document,
    Operations,
    UnpatchableError,
    is_marked,
    rollback_patch,
    switch_patch,
)
from podidctl.migration.federation.lagging_pods import lagging_among
from podidctl.migration.federation.schema import ChangeOutcome, ChangeResult, IdentityState, IdentityStep, TokenTest
from podidctl.migration.projections import RUNNING_PODS
from podidentity.kube.decoding import decode_object
from podidentity.kube.errors import ApiError, NotFound
from podidentity.kube.paths import object_path
from podidentity.resources import (
    ASSIGNED_IDENTITIES,
    BINDING_LABEL,
    BINDINGS,
    IDENTITIES,
    AzureIdentity,
)

CLUSTER_WIDE_NAMESPACE: Final = "default"
"""Namespace of the AzureAssignedIdentities of identities that serve every namespace."""


class IdentityChanger:
    """Switches identities, and rolls them back. *managed*: there is no MIC to wait for."""

    def __init__(self, context: ChangeContext, *, managed: bool) -> None:
        self._context = context
        self._managed = managed

    async def switch(self, step: IdentityStep, tried: list[TokenTest]) -> ChangeOutcome:
        """Switch an identity of type 0, then wait for MIC. Continues the work of an interrupted run."""
        if step.state is IdentityState.TO_DO:
            try:
                await self._context.patch(IDENTITIES, step.key, lambda each: switch_patch(each, step.tenant))
            except (ApiError, UnpatchableError) as error:
                return _not_changed(step.full_name, error, "switched", tried)
            self._context.report(f"{step.full_name}: switched to type 3")
        seconds, lacking = await self._wait_for_mic(step.key)
        if not lacking:
            self._context.report(f"{step.full_name}: {_mic_followed_text(seconds, managed=self._managed)}")
            return ChangeOutcome(about=step.full_name, ending=ChangeResult.CHANGED, tried=tried)
        why = f"MIC has not updated {', '.join(lacking[:3])} within {self._context.timeout:g} s"
        self._context.report(f"{step.full_name}: {why}; rolling back")
        return await self._roll_back(step, why, tried)

    async def rollback(self, key: tuple[str, str]) -> ChangeOutcome:
        """Restore the former state."""
        about = "/".join(key)
        try:
            kept = await self._apply_rollback(key)
        except (ApiError, UnpatchableError) as error:
            return _not_changed(about, error, "rolled back", [])
        self._context.report(f"{about}: type 0 again")
        seconds, lacking = await self._wait_for_mic(key)
        why = f"kept because it was changed since: spec.{', spec.'.join(kept)}" if kept else ""
        if not lacking:
            self._context.report(f"{about}: {_mic_followed_text(seconds, managed=self._managed)}")
            return ChangeOutcome(about=about, ending=ChangeResult.CHANGED, why=why)
        return ChangeOutcome(
            about=about,
            ending=ChangeResult.INCOMPLETE,
            why="; ".join(filter(None, [f"MIC has not updated {', '.join(lacking[:3])} yet", why])),
            do="wait, and see kubectl get azureassignedidentity -A; Azure can take minutes to attach it to a VM",
        )

    async def _apply_rollback(self, key: tuple[str, str]) -> tuple[str, ...]:
        kept: list[tuple[str, ...]] = []

        def operations(document: Document) -> Operations:
            if not is_marked(document):
                raise UnpatchableError("it has no record of its former state")
            way = rollback_patch(document)
            kept.append(way.kept)
            return way.operations

        await self._context.patch(IDENTITIES, key, operations)
        return kept[-1]

    async def _roll_back(self, step: IdentityStep, why: str, tried: list[TokenTest]) -> ChangeOutcome:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._apply_rollback(step.key)
            except (ApiError, UnpatchableError) as error:
                if attempt == ATTEMPTS:
                    return ChangeOutcome(
                        about=step.full_name,
                        ending=ChangeResult.INCOMPLETE,
                        why=f"{why}; and the rollback failed: {_error_text(error)}",
                        do=f"podidctl migrate rollback --yes {step.full_name}",
                        tried=tried,
                    )
                await self._context.sleep(POLL_SECONDS)
            else:
                break
        do = "see MIC's log and podidctl doctor; then run this command again, perhaps with a longer --timeout"
        return ChangeOutcome(
            about=step.full_name,
            ending=ChangeResult.ROLLED_BACK,
            why=f"{why}, so it is of type 0 again",
            do=do,
            tried=tried,
        )

    async def _wait_for_mic(self, key: tuple[str, str]) -> tuple[float, list[str]]:
        """Wait for MIC. Return the elapsed seconds and the pods that MIC has not updated."""
        began = self._context.clock()
        lacking: list[str] = []
        while not self._managed:
            try:
                lacking = await self._lagging_pods(key)
            except NotFound:
                break  # the identity was deleted
            except ApiError as error:
                lacking = lacking or [f"(unknown: {error.message})"]
            if not lacking or self._context.clock() - began >= self._context.timeout:
                break
            await self._context.sleep(POLL_SECONDS)
        return self._context.clock() - began, lacking

    async def _lagging_pods(self, key: tuple[str, str]) -> list[str]:
        namespace = key[0]
        identity: AzureIdentity = decode_object(
            IDENTITIES, await self._context.client.request("GET", object_path(IDENTITIES, *key))
        )
        assigned = [
            each
            for place in dict.fromkeys((namespace, CLUSTER_WIDE_NAMESPACE))
            for each in await self._context.client.list(ASSIGNED_IDENTITIES, place)
        ]
        pods = await self._context.client.list(RUNNING_PODS, namespace, label_selector=BINDING_LABEL)
        return lagging_among(pods, await self._context.client.list(BINDINGS, namespace), identity, assigned)


def _mic_followed_text(seconds: float, *, managed: bool) -> str:
    if managed:
        return "there is no MIC to wait for"
    return f"MIC has updated all of its pods ({seconds:.1f} s)"


def _not_changed(about: str, error: ApiError | UnpatchableError, what: str, tried: list[TokenTest]) -> ChangeOutcome:
    """Return the outcome if nothing was written, or if that is unknown because the API server did not respond."""
    unclear = isinstance(error, ApiError) and not error.status
    return ChangeOutcome(
        about=about,
        ending=ChangeResult.INCOMPLETE if unclear else ChangeResult.NOT_CHANGED,
        why=f"it {'may not have been' if unclear else 'was not'} {what}: {_error_text(error)}",
        do="run podidctl migrate plan, which shows the current state",
        tried=tried,
    )


def _error_text(error: ApiError | UnpatchableError) -> str:
    return error.message if isinstance(error, ApiError) else str(error)
