"""Runs of the three commands, from reading the state to the outcome of each object."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import aiohttp
from msgspec.structs import replace

from podidctl.commands.connection import home_directory
from podidctl.migration import cluster_reader
from podidctl.migration.federation import applications as apps
from podidctl.migration.federation import planning
from podidctl.migration.federation.application_changes import ApplicationChanger, list_marked
from podidctl.migration.federation.binding_permissions import BindingPermissionTester
from podidctl.migration.federation.change_context import ChangeContext
from podidctl.migration.federation.credential_uses import NO_USES, CredentialUses, read_credential_uses
from podidctl.migration.federation.identity_changes import IdentityChanger
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.planning_input import (
    FederationState,
    PlanOptions,
    as_federated,
    audience_of,
    exchange_choice,
    policy_of,
)
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
from podidctl.migration.workload_identity import SUFFIX_MAX
from podidentity.azure import clouds
from podidentity.azure.federation import Exchange
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.resources import IDENTITIES

T = TypeVar("T")
_SUFFIX: Final = re.compile(rf"[A-Za-z0-9_-]{{0,{SUFFIX_MAX}}}")
Tester: TypeAlias = TokenTester | BindingPermissionTester
UNTESTED: Final = "NMI uses identity bindings for it, and only pods of the cluster can test that exchange"
TEST_BY_POD: Final = (
    "test the identity binding with a second AzureIdentity of type 3 and one pod, then run this command with --untested"
)


def plan_options(
    environ: Mapping[str, str],
    tenant: str = "",
    issuer: str = "",
    audience: str = "",
    exchange: Exchange | None = None,
    *,
    name_suffix: str = "",
    ignore_uses: bool = False,
) -> PlanOptions:
    """Return the options of the command line, and the cloud of the environment. Raises StartError."""
    file = environ.get("AZURE_ENVIRONMENT_FILEPATH", "")
    for name, given in (("--issuer", issuer), ("--audience", audience), ("--tenant", tenant)):
        if not given.isprintable():
            raise StartError(f"{name} {given!a} is not printable: use Azure's spelling")
    if not _SUFFIX.fullmatch(name_suffix):
        raise StartError(f"--name-suffix {name_suffix!a} is not at most {SUFFIX_MAX} letters, digits, - and _")
    try:
        cloud = clouds.of_environment(Path(file) if file else None)
    except clouds.CloudError as error:
        raise StartError(str(error)) from error
    return PlanOptions(cloud, tenant.strip(), issuer, audience, exchange, name_suffix, ignore_uses)


@dataclass(frozen=True)
class PlanReader:
    """Connection to the cluster, with the options of the plan."""

    environ: Mapping[str, str]
    kubeconfig: str
    options: PlanOptions
    force_namespaced: bool = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Connect to the API server. Raises StartError, also for errors in the context."""
        async with cluster_reader.connect(self.kubeconfig, self.environ, home_directory()) as client:
            yield client

    async def read_plan(self, client: Client, uses: CredentialUses = NO_USES) -> tuple[FederationState, FederationPlan]:
        """Return the current state and the plan. Raises ApiError."""
        found = await read_federation_state(client, force_namespaced=self.force_namespaced, uses=uses)
        return found, planning.plan_federation(found, self.options)


async def make_plan(reader: PlanReader) -> FederationPlan:
    """Return the whole plan, including applications."""
    async with reader.client() as client:
        found, made = await reader.read_plan(client, await read_credential_uses(client))
    if not made.issuer.isprintable():
        raise StartError(f"the issuer {made.issuer!a} is not an address: pass --issuer")
    return replace(made, applications=apps.plan_applications(found, exchange_choice(found, reader.options)))


@dataclass(frozen=True)
class MigrationRun:
    """One run of `apply` or `rollback`; changes are made only with *yes*. *report* receives each progress line."""

    reader: PlanReader
    names: Sequence[str]
    namespace: str
    timeout: float
    yes: bool
    report: Callable[[str], None]
    untested: bool = False
    """Whether to switch identities whose exchange cannot be tested from here (identity bindings)."""

    async def identities(self, resource: str) -> list[ChangeOutcome]:
        """Test and switch identities one after the other. Read the state again before each one, because the previous
        one took time.
        """
        async with self.reader.client() as client, new_token_session() as session:
            uses = await read_credential_uses(client)
            found, made = await self.reader.read_plan(client, uses)
            unchanged = [each.identity for each in made.leftovers]
            steps = select(
                self.names, self.namespace, [(each.full_name, each) for each in made.steps], unchanged=unchanged
            )
            testers = self._testers(client, session, found, resource)
            changer = IdentityChanger(self._context(client), managed=found.managed)
            if not self.yes:
                each_tried = (self._one(step, made.remarks, found, testers, changer) for step in steps)
                return list(await asyncio.gather(*each_tried))
            outcomes: list[ChangeOutcome] = []
            for name in [each.full_name for each in steps]:
                if outcomes:
                    found, made = await self.reader.read_plan(client, uses)
                step = next((each for each in made.steps if each.full_name == name), None)
                if step is None:
                    outcomes.append(
                        ChangeOutcome(
                            about=name, ending=ChangeResult.NOT_CHANGED, why="it was deleted or has another type now"
                        )
                    )
                else:
                    outcomes.append(await self._one(step, made.remarks, found, testers, changer))
            return outcomes

    def _testers(
        self, client: Client, session: aiohttp.ClientSession, found: FederationState, resource: str
    ) -> Mapping[Exchange, Tester]:
        options = self.reader.options
        policy = policy_of(found, options)
        audience = audience_of(found, options)
        return {
            Exchange.DIRECT: TokenTester(
                client, session, policy, self.reader.environ, audience=audience, resource=resource
            ),
            Exchange.IDENTITY_BINDINGS: BindingPermissionTester(client, policy),
        }

    async def _one(
        self,
        step: IdentityStep,
        everywhere: list[Remark],
        found: FederationState,
        testers: Mapping[Exchange, Tester],
        changer: IdentityChanger,
    ) -> ChangeOutcome:
        if step.state is IdentityState.UNFINISHED and self.yes:
            return await changer.switch(step, [])
        if known := _outcome_without_test(step, everywhere):
            return known
        identity = next(each for each in found.situation.identities if each.key == step.key)
        tester = testers[step.exchange]
        tried = await tester.all(as_federated(identity, step.tenant), step.accounts)
        if any(each.problem for each in tried):
            by_token = isinstance(tester, TokenTester)
            why = "no token of it could be obtained" if by_token else "not all of its service accounts may use it"
            do = "follow the next action of the failed test, then run this command again"
            return ChangeOutcome(about=step.full_name, ending=ChangeResult.NOT_CHANGED, why=why, do=do, tried=tried)
        names = ", ".join(each.account for each in tried)
        if isinstance(tester, BindingPermissionTester):
            self.report(f"{step.full_name}: allowed for {names}, no token was tested")
            if not self.untested:
                return ChangeOutcome(
                    about=step.full_name, ending=ChangeResult.NOT_CHANGED, why=UNTESTED, do=TEST_BY_POD, tried=tried
                )
        else:
            self.report(f"{step.full_name}: token obtained for {names}")
        if not self.yes:
            why = "a token of it can be obtained" if isinstance(tester, TokenTester) else "its accounts may use it"
            return ChangeOutcome(about=step.full_name, ending=ChangeResult.WOULD_CHANGE, why=why, tried=tried)
        return await changer.switch(step, tried)

    async def rollback_identities(self) -> list[ChangeOutcome]:
        """Roll identities back. Reads only what this needs."""
        async with self.reader.client() as client:
            identities = await client.list(IDENTITIES)
            noted = sorted(each.key for each in identities if each.metadata.annotation(FORMER_ANNOTATION))
            keys = self._select([("/".join(each), each) for each in noted])
            if not self.yes:
                return [
                    ChangeOutcome(about="/".join(each), ending=ChangeResult.WOULD_CHANGE, why="back to type 0")
                    for each in keys
                ]
            changer = IdentityChanger(self._context(client), managed=await is_managed(client))
            return [await changer.rollback(each) for each in keys]

    async def applications(self) -> list[ChangeOutcome]:
        """Change applications for workload identity, one after the other."""
        async with self.reader.client() as client:
            found, _ = await self.reader.read_plan(client)
            everywhere = [each for each in apps.cluster_remarks(found) if each.blocks]
            exchanges = exchange_choice(found, self.reader.options)
            every = self._select([(each.identity, each) for each in apps.plan_applications(found, exchanges)])
            changer = ApplicationChanger(self._context(client))
            return [await self._application(each, everywhere, changer) for each in every]

    async def _application(
        self, each: Application, everywhere: list[Remark], changer: ApplicationChanger
    ) -> ChangeOutcome:
        if each.state is ApplicationState.DONE:
            return ChangeOutcome(about=each.description, ending=ChangeResult.UNCHANGED, why="no change is needed")
        if each.state is ApplicationState.WAITS_FOR_IDENTITY:
            do = f"podidctl migrate apply --yes {each.identity}"
            return ChangeOutcome(
                about=each.description,
                ending=ChangeResult.NOT_CHANGED,
                why=f"{each.identity} is still of type 0",
                do=do,
            )
        by_hand = each.remarks if each.state is ApplicationState.MANUAL else ()
        if blocking := [*(one for one in by_hand if one.blocks), *everywhere]:
            return ChangeOutcome(
                about=each.description, ending=ChangeResult.NOT_CHANGED, why=blocking[0].why, do=blocking[0].do
            )
        if not self.yes:
            return ChangeOutcome(about=each.description, ending=ChangeResult.WOULD_CHANGE, why="its pods are replaced")
        return await changer.apply(each)

    async def rollback_applications(self) -> list[ChangeOutcome]:
        """Undo the changes of applications: labels first, then the service accounts without remaining labels."""
        async with self.reader.client() as client:
            marks = self._select([(each.identity, each) for each in await list_marked(client)])
            if not self.yes:
                return [ChangeOutcome(about=each.description, ending=ChangeResult.WOULD_CHANGE) for each in marks]
            changer = ApplicationChanger(self._context(client))
            return await changer.remove(marks)

    def _select(self, every: list[tuple[str, T]]) -> list[T]:
        return select(self.names, self.namespace, every)

    def _context(self, client: Client) -> ChangeContext:
        return ChangeContext(client=client, timeout=self.timeout, report=self.report)


def _outcome_without_test(step: IdentityStep, everywhere: list[Remark]) -> ChangeOutcome | None:
    """Return the outcome of *step* if it is known without a token test."""
    if step.is_federated:
        why = "it is already switched" if step.state is IdentityState.SWITCHED else "it is of type 3 already"
        return ChangeOutcome(about=step.full_name, ending=ChangeResult.UNCHANGED, why=why)
    if step.state is IdentityState.UNFINISHED:
        why = "; ".join(each.why for each in step.remarks)
        return ChangeOutcome(about=step.full_name, ending=ChangeResult.WOULD_CHANGE, why=why, do="--yes waits for MIC")
    blocking = [each for each in (*everywhere, *step.remarks) if each.blocks]
    if not blocking:
        return None
    first, *others = blocking
    more = f" (and {len(others)} more: podidctl migrate plan)" if others else ""
    return ChangeOutcome(about=step.full_name, ending=ChangeResult.NOT_CHANGED, why=first.why + more, do=first.do)
