"""Runs of the three commands, from reading the state to the outcome of each object."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from nmi.tokens.entra_loader import SignInSession
from podidctl.commands.connection import ClusterSettings, connect
from podidctl.migration.federation.applications import cluster_remarks, plan_applications
from podidctl.migration.federation.changes import ApplicationChanger, IdentityChanger, list_marked
from podidctl.migration.federation.json_patches import FORMER_ANNOTATION
from podidctl.migration.federation.planning import plan_federation
from podidctl.migration.federation.planning_input import (
    NO_USES,
    CredentialUses,
    FederationState,
    PlanOptions,
    as_federated,
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
from podidctl.migration.federation.state_reader import is_cluster_managed, read_credential_uses, read_federation_state
from podidctl.migration.federation.token_tests import IdentityTester
from podidentity.azure.federation import Exchange
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.resources import IDENTITIES
from podidentity.version import VERSION

T = TypeVar("T")
UNTESTED: Final = "NMI uses identity bindings for it, and only pods of the cluster can test that exchange"
TEST_BY_POD: Final = (
    "test the identity binding with a second AzureIdentity of type 3 and one pod, then run this command with --untested"
)


@dataclass(frozen=True, kw_only=True)
class MigrationRun:
    """One run of a command. `apply` and `rollback` make changes only with *yes*."""

    settings: ClusterSettings
    """The address of the cluster."""
    options: PlanOptions
    names: Sequence[str]
    namespace: str
    force_namespaced: bool = False
    timeout: float = 0.0
    yes: bool = False
    report: Callable[[str], None] = lambda _line: None
    """Receives each progress line."""
    untested: bool = False
    """Whether to switch identities whose exchange cannot be tested from here (identity bindings)."""

    async def plan(self, *, workload_identity: bool) -> FederationPlan:
        """Return the plan of the selected identities, with *workload_identity* also of their applications."""
        async with connect(self.settings) as client:
            state, made = await self._read_plan(client, await read_credential_uses(client))
        if not made.issuer.isprintable():
            raise StartError(f"the issuer {made.issuer!a} is not an address: pass --issuer")
        every: list[tuple[str, IdentityStep | Application]] = [(step.full_name, step) for step in made.steps]
        if workload_identity:
            every += [(application.identity, application) for application in plan_applications(state)]
        selected = self.select(every, unchanged=[leftover.identity for leftover in made.leftovers])
        return replace(
            made,
            steps=[item for item in selected if isinstance(item, IdentityStep)],
            applications=[item for item in selected if isinstance(item, Application)],
            leftovers=[] if self.names or self.namespace else made.leftovers,
        )

    async def identities(self, resource: str, environ: Mapping[str, str]) -> list[ChangeOutcome]:
        """Test and switch identities one after the other. Read the state again before each one, because the previous
        one took time. *resource* is the audience of the tested tokens; *environ* has the proxy.
        """
        sign_ins = SignInSession(f"podidctl/{VERSION}")
        async with connect(self.settings) as client, aclosing(sign_ins) as session:
            uses = await read_credential_uses(client)
            state, made = await self._read_plan(client, uses)
            unchanged = [leftover.identity for leftover in made.leftovers]
            steps = self.select([(step.full_name, step) for step in made.steps], unchanged=unchanged)
            tester = IdentityTester(client, session, state.policy, environ, audience=state.audience, resource=resource)
            changer = IdentityChanger(client=client, timeout=self.timeout, report=self.report, managed=state.managed)
            # Without --yes nothing changes from one identity to the next, so one state is enough.
            if not self.yes:
                # Tests write nothing, so they may run concurrently.
                outcomes_of_steps = (self._identity(step, made.remarks, state, tester, changer) for step in steps)
                return list(await asyncio.gather(*outcomes_of_steps))
            outcomes: list[ChangeOutcome] = []
            for name in [step.full_name for step in steps]:
                if outcomes:
                    state, made = await self._read_plan(client, uses)
                step = next((step for step in made.steps if step.full_name == name), None)
                if step is None:
                    reason = "it was deleted or has another type now"
                    outcomes.append(ChangeOutcome(name, ChangeResult.NOT_CHANGED, reason))
                else:
                    outcomes.append(await self._identity(step, made.remarks, state, tester, changer))
            return outcomes

    async def _identity(
        self,
        step: IdentityStep,
        everywhere: list[Remark],
        state: FederationState,
        tester: IdentityTester,
        changer: IdentityChanger,
    ) -> ChangeOutcome:
        """Test the identity of *step*, then switch it. *everywhere*: remarks about the whole cluster."""
        about = step.full_name
        # A former run has tested and switched it, so only the wait for MIC remains.
        if step.state is IdentityState.UNFINISHED and self.yes:
            return await changer.switch(step)
        if outcome := _outcome_without_test(step, everywhere):
            return outcome
        identity = next(identity for identity in state.situation.identities if identity.key == step.key)
        by_token = step.exchange is Exchange.DIRECT
        tried = await tester.test(as_federated(identity, step.tenant), step.accounts, step.exchange)
        if any(test.problem for test in tried):
            reason = "no token of it could be obtained" if by_token else "not all of its service accounts may use it"
            do = "follow the next action of the failed test, then run this command again"
            return ChangeOutcome(about, ChangeResult.NOT_CHANGED, reason, do, tried)
        names = ", ".join(test.account for test in tried)
        self.report(
            f"{about}: token obtained for {names}" if by_token else f"{about}: allowed for {names}, no token was tested"
        )
        if not by_token and not self.untested:
            return ChangeOutcome(about, ChangeResult.NOT_CHANGED, UNTESTED, TEST_BY_POD, tried)
        if not self.yes:
            reason = "a token of it can be obtained" if by_token else "its accounts may use it"
            return ChangeOutcome(about, ChangeResult.WOULD_CHANGE, reason, tried=tried)
        return replace(await changer.switch(step), tried=tried)

    async def rollback_identities(self) -> list[ChangeOutcome]:
        """Roll identities back. Reads only what this needs."""
        async with connect(self.settings) as client:
            identities = await client.list(IDENTITIES)
            noted = sorted(identity.key for identity in identities if identity.metadata.annotation(FORMER_ANNOTATION))
            keys = self.select([("/".join(key), key) for key in noted])
            if not self.yes:
                return [ChangeOutcome("/".join(key), ChangeResult.WOULD_CHANGE, "back to type 0") for key in keys]
            managed = await is_cluster_managed(client)
            changer = IdentityChanger(client=client, timeout=self.timeout, report=self.report, managed=managed)
            return [await changer.rollback(key) for key in keys]

    async def applications(self) -> list[ChangeOutcome]:
        """Change applications for workload identity, one after the other."""
        async with connect(self.settings) as client:
            state, _ = await self._read_plan(client)
            everywhere = [remark for remark in cluster_remarks(state) if remark.blocks]
            selected = self.select([(application.identity, application) for application in plan_applications(state)])
            changer = ApplicationChanger(client=client, timeout=self.timeout, report=self.report)
            return [await self._application(application, everywhere, changer) for application in selected]

    async def _application(
        self, application: Application, everywhere: list[Remark], changer: ApplicationChanger
    ) -> ChangeOutcome:
        about = application.description
        if application.state is ApplicationState.DONE:
            return ChangeOutcome(about, ChangeResult.UNCHANGED, "no change is needed")
        if application.state is ApplicationState.WAITS_FOR_IDENTITY:
            do = f"podidctl migrate apply --yes {application.identity}"
            return ChangeOutcome(about, ChangeResult.NOT_CHANGED, f"{application.identity} is still of type 0", do)
        by_hand = application.remarks if application.state is ApplicationState.MANUAL else ()
        if blocking := [*(remark for remark in by_hand if remark.blocks), *everywhere]:
            return ChangeOutcome(about, ChangeResult.NOT_CHANGED, blocking[0].why, blocking[0].do)
        if not self.yes:
            return ChangeOutcome(about, ChangeResult.WOULD_CHANGE, "its pods are replaced")
        return await changer.apply(application)

    async def rollback_applications(self) -> list[ChangeOutcome]:
        """Undo the changes of applications: labels first, then the service accounts without remaining labels."""
        async with connect(self.settings) as client:
            marks = self.select([(mark.identity, mark) for mark in await list_marked(client)])
            if not self.yes:
                return [ChangeOutcome(mark.description, ChangeResult.WOULD_CHANGE) for mark in marks]
            changer = ApplicationChanger(client=client, timeout=self.timeout, report=self.report)
            return await changer.remove(marks)

    async def _read_plan(
        self, client: Client, uses: CredentialUses = NO_USES
    ) -> tuple[FederationState, FederationPlan]:
        """Return the current state and the plan without applications. Raises ApiError."""
        state = await read_federation_state(client, self.options, force_namespaced=self.force_namespaced, uses=uses)
        return state, plan_federation(state)

    def select(self, every: Sequence[tuple[str, T]], *, unchanged: Collection[str] | None = None) -> list[T]:
        """Return the selected items of *every* (AzureIdentity as `namespace/name`, and its item); all if no name is
        given. *unchanged*: the existing identities without an item, if they are known. Raises StartError for a name
        without an item.
        """
        wanted = {name if "/" in name else f"{self.namespace or 'default'}/{name}" for name in self.names}
        identities = {identity for identity, _ in every}
        if unchanged is not None and (absent := sorted(wanted - identities - set(unchanged))):
            raise StartError(f"AzureIdentity {', '.join(absent)} does not exist: see kubectl get azureidentities -A")
        if lost := sorted(wanted - identities):
            raise StartError(
                f"there is nothing to do for AzureIdentity {', '.join(lost)}: podidctl migrate plan lists the steps"
            )
        return [
            what
            for identity, what in every
            if (identity in wanted if wanted else self.namespace in {"", identity.partition("/")[0]})
        ]


def _outcome_without_test(step: IdentityStep, everywhere: list[Remark]) -> ChangeOutcome | None:
    """Return the outcome of *step* if it is known without a token test."""
    if step.is_federated:
        reason = "it is already switched" if step.state is IdentityState.SWITCHED else "it is of type 3 already"
        return ChangeOutcome(step.full_name, ChangeResult.UNCHANGED, reason)
    if step.state is IdentityState.UNFINISHED:
        reason = "; ".join(remark.why for remark in step.remarks)
        return ChangeOutcome(step.full_name, ChangeResult.WOULD_CHANGE, reason, "--yes waits for MIC")
    blocking = [remark for remark in (*everywhere, *step.remarks) if remark.blocks]
    if not blocking:
        return None
    first, *others = blocking
    more = f" (and {len(others)} more: podidctl migrate plan)" if others else ""
    return ChangeOutcome(step.full_name, ChangeResult.NOT_CHANGED, first.why + more, first.do)
