"""Runs of the three commands, from what is read to what came of each object."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from podidctl.migration import cluster_reader
from podidctl.migration.federation import applications as apps
from podidctl.migration.federation import planning
from podidctl.migration.federation.application_changes import ApplicationChanger, list_marked
from podidctl.migration.federation.identity_changes import IdentityChanger
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.planning import FederationState, PlanOptions, as_federated, audience_of, policy_of
from podidctl.migration.federation.schema import (
    Application,
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    IdentityState,
    IdentityStep,
    Remark,
)
from podidctl.migration.federation.selection import select
from podidctl.migration.federation.state_reader import is_managed, read_federation_state
from podidctl.migration.federation.token_test import TokenTester, new_token_session
from podidentity.azure import clouds
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.resources import IDENTITIES

T = TypeVar("T")


def plan_options(environ: Mapping[str, str], tenant: str = "", issuer: str = "", audience: str = "") -> PlanOptions:
    """What the command line says, and the cloud that the environment names. Raises StartError."""
    file = environ.get("AZURE_ENVIRONMENT_FILEPATH", "")
    for name, given in (("--issuer", issuer), ("--audience", audience), ("--tenant", tenant)):
        if not given.isprintable():
            raise StartError(f"{name} {given!a} is not printable: write it as Azure does")
    try:
        cloud = clouds.of_environment(Path(file) if file else None)
    except clouds.CloudError as error:
        raise StartError(str(error)) from error
    return PlanOptions(cloud, tenant.strip(), issuer, audience)


@dataclass(frozen=True)
class PlanReader:
    """The way to the cluster, and what is asked of it."""

    environ: Mapping[str, str]
    kubeconfig: str
    options: PlanOptions
    force_namespaced: bool = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """The API server. Raises StartError, also for what fails within."""
        async with cluster_reader.connect(self.kubeconfig, self.environ, Path.home()) as client:
            yield client

    async def read_plan(self, client: Client) -> tuple[FederationState, FederationPlan]:
        """What is there now, and what is to be done. Raises ApiError."""
        found = await read_federation_state(client, force_namespaced=self.force_namespaced)
        return found, planning.plan_federation(found, self.options)


async def make_plan(reader: PlanReader) -> FederationPlan:
    """The whole plan, applications included."""
    async with reader.client() as client:
        found, made = await reader.read_plan(client)
    if not made.issuer.isprintable():
        raise StartError(f"the issuer {made.issuer!a} is no address: give --issuer")
    return replace(made, applications=apps.plan_applications(found))


@dataclass(frozen=True)
class MigrationRun:
    """One run of `apply` or `rollback`, with *yes* in earnest; *tell* hears each thing as it is done."""

    reader: PlanReader
    names: Sequence[str]
    namespace: str
    timeout: float
    yes: bool
    report: Callable[[str], None]

    async def identities(self, resource: str) -> list[ChangeOutcome]:
        """Try and switch them, one after another; before each is looked anew, since the one before took its time."""
        async with self.reader.client() as client, new_token_session() as session:
            found, made = await self.reader.read_plan(client)
            steps = self._select([(each.identity, each) for each in made.steps])
            tester = TokenTester(
                client,
                session,
                policy_of(found, self.reader.options),
                self.reader.environ,
                audience=audience_of(found, self.reader.options),
                resource=resource,
            )
            changer = self._identity_changer(client, managed=found.managed)
            if not self.yes:
                each_tried = (self._one(step, made.remarks, found, tester, changer) for step in steps)
                return list(await asyncio.gather(*each_tried))
            outcomes: list[ChangeOutcome] = []
            for name in [each.identity for each in steps]:
                if outcomes:
                    found, made = await self.reader.read_plan(client)
                step = next((each for each in made.steps if each.identity == name), None)
                if step is None:
                    outcomes.append(
                        ChangeOutcome(
                            about=name, ending=ChangeResult.NOT_CHANGED, why="it is gone, or another type now"
                        )
                    )
                else:
                    outcomes.append(await self._one(step, made.remarks, found, tester, changer))
            return outcomes

    async def _one(
        self,
        step: IdentityStep,
        everywhere: list[Remark],
        found: FederationState,
        tester: TokenTester,
        changer: IdentityChanger,
    ) -> ChangeOutcome:
        if step.state is IdentityState.UNFINISHED and self.yes:
            return await changer.switch(step, [])
        if known := _outcome_without_test(step, everywhere):
            return known
        identity = next(each for each in found.situation.identities if each.key == step.key)
        tried = await tester.all(as_federated(identity, step.tenant), step.accounts)
        if any(each.problem for each in tried):
            why, do = "no token could be got of it", "do what stands beside the token, then run this again"
            return ChangeOutcome(about=step.identity, ending=ChangeResult.NOT_CHANGED, why=why, do=do, tried=tried)
        self.report(f"{step.identity}: a token could be got for {', '.join(each.account for each in tried)}")
        if not self.yes:
            return ChangeOutcome(
                about=step.identity, ending=ChangeResult.WOULD_CHANGE, why="a token of it can be got", tried=tried
            )
        return await changer.switch(step, tried)

    async def rollback_identities(self) -> list[ChangeOutcome]:
        """Take the switch back: as little is read as that needs."""
        async with self.reader.client() as client:
            identities = await client.list(IDENTITIES)
            noted = sorted(each.key for each in identities if each.metadata.annotation(FORMER_ANNOTATION))
            keys = self._select([("/".join(each), each) for each in noted])
            if not self.yes:
                return [
                    ChangeOutcome(about="/".join(each), ending=ChangeResult.WOULD_CHANGE, why="back to type 0")
                    for each in keys
                ]
            changer = self._identity_changer(client, managed=await is_managed(client))
            return [await changer.rollback(each) for each in keys]

    async def applications(self) -> list[ChangeOutcome]:
        """Put on what workload identity wants, one application after another."""
        async with self.reader.client() as client:
            found, _ = await self.reader.read_plan(client)
            everywhere = [each for each in apps.cluster_remarks(found) if each.blocks]
            every = self._select([(each.identity, each) for each in apps.plan_applications(found)])
            changer = ApplicationChanger(client, timeout=self.timeout, report=self.report)
            return [await self._application(each, everywhere, changer) for each in every]

    async def _application(
        self, each: Application, everywhere: list[Remark], changer: ApplicationChanger
    ) -> ChangeOutcome:
        if each.state is ApplicationState.DONE:
            return ChangeOutcome(about=each.description, ending=ChangeResult.UNCHANGED, why="it has what it needs")
        if each.state is ApplicationState.WAITS_FOR_IDENTITY:
            do = f"podidctl migrate apply --yes {each.identity}"
            return ChangeOutcome(
                about=each.description,
                ending=ChangeResult.NOT_CHANGED,
                why=f"{each.identity} is of type 0 still",
                do=do,
            )
        by_hand = each.remarks if each.state is ApplicationState.MANUAL else ()
        if blocking := [*(one for one in by_hand if one.blocks), *everywhere]:
            return ChangeOutcome(
                about=each.description, ending=ChangeResult.NOT_CHANGED, why=blocking[0].why, do=blocking[0].do
            )
        if not self.yes:
            return ChangeOutcome(about=each.description, ending=ChangeResult.WOULD_CHANGE, why="its pods are made anew")
        return await changer.apply(each)

    async def rollback_applications(self) -> list[ChangeOutcome]:
        """Take it off again: the labels before the service accounts, which stay where a label could not be taken."""
        async with self.reader.client() as client:
            marks = self._select([(each.identity, each) for each in await list_marked(client)])
            if not self.yes:
                return [ChangeOutcome(about=each.description, ending=ChangeResult.WOULD_CHANGE) for each in marks]
            changer = ApplicationChanger(client, timeout=self.timeout, report=self.report)
            return await changer.remove(marks)

    def _select(self, every: list[tuple[str, T]]) -> list[T]:
        return select(self.names, self.namespace, every)

    def _identity_changer(self, client: Client, *, managed: bool) -> IdentityChanger:
        return IdentityChanger(client, managed=managed, timeout=self.timeout, report=self.report)


def _outcome_without_test(step: IdentityStep, everywhere: list[Remark]) -> ChangeOutcome | None:
    """What is to be said of *step* before any token is tried."""
    if step.state is IdentityState.SWITCHED:
        return ChangeOutcome(about=step.identity, ending=ChangeResult.UNCHANGED, why="it is switched")
    if step.state is IdentityState.UNFINISHED:
        why = "; ".join(each.why for each in step.remarks)
        return ChangeOutcome(about=step.identity, ending=ChangeResult.WOULD_CHANGE, why=why, do="--yes waits for MIC")
    blocking = [each for each in (*everywhere, *step.remarks) if each.blocks]
    if not blocking:
        return None
    first, *others = blocking
    more = f" (and {len(others)} more: podidctl migrate plan)" if others else ""
    return ChangeOutcome(about=step.identity, ending=ChangeResult.NOT_CHANGED, why=first.why + more, do=first.do)
