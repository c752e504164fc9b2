"""Runs of the three commands, from what is read to what came of each object."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from podidctl.migration import survey
from podidctl.migration.federation import applications as apps
from podidctl.migration.federation import planning
from podidctl.migration.federation.applying import Applying, marked
from podidctl.migration.federation.choosing import chosen
from podidctl.migration.federation.marks import FORMER
from podidctl.migration.federation.planning import Asked, Cluster, audience_of, federated, policy_of
from podidctl.migration.federation.reading import is_managed, read
from podidctl.migration.federation.shapes import Application, AppState, Ending, Outcome, Plan, Remark, State, Step
from podidctl.migration.federation.switching import Switching
from podidctl.migration.federation.trying import Trying, sessions
from podidentity.azure import clouds
from podidentity.exits import StartError
from podidentity.kube.client import Client
from podidentity.resources import IDENTITIES

T = TypeVar("T")


def asked(environ: Mapping[str, str], tenant: str = "", issuer: str = "", audience: str = "") -> Asked:
    """What the command line says, and the cloud that the environment names. Raises StartError."""
    file = environ.get("AZURE_ENVIRONMENT_FILEPATH", "")
    for name, given in (("--issuer", issuer), ("--audience", audience), ("--tenant", tenant)):
        if not given.isprintable():
            raise StartError(f"{name} {given!a} is not printable: write it as Azure does")
    try:
        cloud = clouds.of_environment(Path(file) if file else None)
    except clouds.CloudError as error:
        raise StartError(str(error)) from error
    return Asked(cloud, tenant.strip(), issuer, audience)


@dataclass(frozen=True)
class Way:
    """The way to the cluster, and what is asked of it."""

    environ: Mapping[str, str]
    kubeconfig: str
    asked: Asked
    force_namespaced: bool = False

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """The API server. Raises StartError, also for what fails within."""
        async with survey.cluster(self.kubeconfig, self.environ, Path.home()) as client:
            yield client

    async def read(self, client: Client) -> tuple[Cluster, Plan]:
        """What is there now, and what is to be done. Raises ApiError."""
        found = await read(client, force_namespaced=self.force_namespaced)
        return found, planning.plan(found, self.asked)


async def planned(way: Way) -> Plan:
    """The whole plan, applications included."""
    async with way.client() as client:
        found, made = await way.read(client)
    if not made.issuer.isprintable():
        raise StartError(f"the issuer {made.issuer!a} is no address: give --issuer")
    return replace(made, applications=apps.planned(found))


@dataclass(frozen=True)
class Running:
    """One run of `apply` or `rollback`, with *yes* in earnest; *tell* hears each thing as it is done."""

    way: Way
    names: Sequence[str]
    namespace: str
    timeout: float
    yes: bool
    tell: Callable[[str], None]

    async def identities(self, resource: str) -> list[Outcome]:
        """Try and switch them, one after another; before each is looked anew, since the one before took its time."""
        async with self.way.client() as client, sessions() as session:
            found, made = await self.way.read(client)
            steps = self._chosen([(each.identity, each) for each in made.steps])
            trying = Trying(
                client,
                session,
                policy_of(found, self.way.asked),
                self.way.environ,
                audience=audience_of(found, self.way.asked),
                resource=resource,
            )
            switching = self._switching(client, managed=found.managed)
            if not self.yes:
                each_tried = (self._one(step, made.remarks, found, trying, switching) for step in steps)
                return list(await asyncio.gather(*each_tried))
            outcomes: list[Outcome] = []
            for name in [each.identity for each in steps]:
                if outcomes:
                    found, made = await self.way.read(client)
                step = next((each for each in made.steps if each.identity == name), None)
                if step is None:
                    outcomes.append(Outcome(about=name, ending=Ending.LEFT, why="it is gone, or another type now"))
                else:
                    outcomes.append(await self._one(step, made.remarks, found, trying, switching))
            return outcomes

    async def _one(
        self, step: Step, everywhere: list[Remark], found: Cluster, trying: Trying, switching: Switching
    ) -> Outcome:
        if step.state is State.UNFINISHED and self.yes:
            return await switching.switch(step, [])
        if known := _known(step, everywhere):
            return known
        identity = next(each for each in found.situation.identities if each.key == step.key)
        tried = await trying.all(federated(identity, step.tenant), step.accounts)
        if any(each.problem for each in tried):
            why, do = "no token could be got of it", "do what stands beside the token, then run this again"
            return Outcome(about=step.identity, ending=Ending.LEFT, why=why, do=do, tried=tried)
        self.tell(f"{step.identity}: a token could be got for {', '.join(each.account for each in tried)}")
        if not self.yes:
            return Outcome(about=step.identity, ending=Ending.WOULD, why="a token of it can be got", tried=tried)
        return await switching.switch(step, tried)

    async def identities_back(self) -> list[Outcome]:
        """Take the switch back: as little is read as that needs."""
        async with self.way.client() as client:
            identities = await client.list(IDENTITIES)
            noted = sorted(each.key for each in identities if each.metadata.annotation(FORMER))
            keys = self._chosen([("/".join(each), each) for each in noted])
            if not self.yes:
                return [Outcome(about="/".join(each), ending=Ending.WOULD, why="back to type 0") for each in keys]
            switching = self._switching(client, managed=await is_managed(client))
            return [await switching.back(each) for each in keys]

    async def applications(self) -> list[Outcome]:
        """Put on what workload identity wants, one application after another."""
        async with self.way.client() as client:
            found, _ = await self.way.read(client)
            everywhere = [each for each in apps.remarks(found) if each.blocks]
            every = self._chosen([(each.identity, each) for each in apps.planned(found)])
            applying = Applying(client, timeout=self.timeout, tell=self.tell)
            return [await self._application(each, everywhere, applying) for each in every]

    async def _application(self, each: Application, everywhere: list[Remark], applying: Applying) -> Outcome:
        if each.state is AppState.DONE:
            return Outcome(about=each.told, ending=Ending.AS_IT_IS, why="it has what it needs")
        if each.state is AppState.LATER:
            do = f"podidctl migrate apply --yes {each.identity}"
            return Outcome(about=each.told, ending=Ending.LEFT, why=f"{each.identity} is of type 0 still", do=do)
        by_hand = each.remarks if each.state is AppState.BY_HAND else ()
        if blocking := [*(one for one in by_hand if one.blocks), *everywhere]:
            return Outcome(about=each.told, ending=Ending.LEFT, why=blocking[0].why, do=blocking[0].do)
        if not self.yes:
            return Outcome(about=each.told, ending=Ending.WOULD, why="its pods are made anew")
        return await applying.put(each)

    async def applications_back(self) -> list[Outcome]:
        """Take it off again: the labels before the service accounts, which stay where a label could not be taken."""
        async with self.way.client() as client:
            marks = self._chosen([(each.identity, each) for each in await marked(client)])
            if not self.yes:
                return [Outcome(about=each.told, ending=Ending.WOULD) for each in marks]
            applying = Applying(client, timeout=self.timeout, tell=self.tell)
            return await applying.take_off(marks)

    def _chosen(self, every: list[tuple[str, T]]) -> list[T]:
        return chosen(self.names, self.namespace, every)

    def _switching(self, client: Client, *, managed: bool) -> Switching:
        return Switching(client, managed=managed, timeout=self.timeout, tell=self.tell)


def _known(step: Step, everywhere: list[Remark]) -> Outcome | None:
    """What is to be said of *step* before any token is tried."""
    if step.state is State.SWITCHED:
        return Outcome(about=step.identity, ending=Ending.AS_IT_IS, why="it is switched")
    if step.state is State.UNFINISHED:
        why = "; ".join(each.why for each in step.remarks)
        return Outcome(about=step.identity, ending=Ending.WOULD, why=why, do="--yes waits for MIC")
    blocking = [each for each in (*everywhere, *step.remarks) if each.blocks]
    if not blocking:
        return None
    first, *others = blocking
    more = f" (and {len(others)} more: podidctl migrate plan)" if others else ""
    return Outcome(about=step.identity, ending=Ending.LEFT, why=first.why + more, do=first.do)
