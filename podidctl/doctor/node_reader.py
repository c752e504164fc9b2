"""Reader of this machine's state as a node. Makes no changes: with the legacy backend it does not open a table that
does not exist, because that would create it.
"""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp

from nmi.node import boot_guard, route_localnet
from nmi.node.backend import Backend, DetectedBackend, detect
from nmi.node.kubenet import names_kubenet
from nmi.node.rules import RedirectError, RedirectSpec, TopRule
from nmi.node.traffic_redirect import driver_for, redirect_spec
from nmi.settings import Settings
from nmi.subprocesses import ProgramTimeoutError, run
from podidctl.diagnosis.input import ReadFailure
from podidctl.doctor.fail_closed import RESTRICTED_TABLES, FailClosedState, has_restriction
from podidctl.doctor.node_checks import NodeState, packets_in
from podidentity.exits import StartError

IMDS_SECONDS: Final = 5.0
READ_MAX: Final = 1 << 20
VERSIONS: Final = "/metadata/versions"
"""The only path of IMDS that needs no identity."""


async def read_node(settings: Settings, *, pods: int | None, ask_imds: bool) -> NodeState:
    """Return the state of this machine, which is the node in *settings* (of the NMI on it)."""
    wanted = settings.redirect.changes_rules
    fault, packets = await _redirect(settings) if wanted else (None, None)
    return NodeState(
        name=settings.node_name,
        fault=fault,
        wanted=wanted,
        packets=packets,
        pods=pods,
        kubenet=await asyncio.to_thread(_kubenet, settings.kubelet_config),
        imds=await _imds(settings) if ask_imds else None,
        closing=await _fail_closed_state(settings) if wanted else None,
    )


async def _fail_closed_state(settings: Settings) -> FailClosedState:
    to = redirect_spec(settings)
    fault, restricted = await _reject(to)
    local = route_localnet.needed(settings.redirect_destination[0])
    return FailClosedState(
        wanted=settings.fail_closed,
        fault=fault,
        restricted=restricted,
        guard=await asyncio.to_thread(_boot_guard, Path(settings.systemd_directory)),
        localnet=await asyncio.to_thread(route_localnet.fault) if local else None,
    )


async def _reject(to: RedirectSpec) -> tuple[str | ReadFailure | None, tuple[str, ...] | ReadFailure]:
    """Return the fault of the reject rule and the tables with AKS's rule, both in this node's backend."""
    try:
        detected = await detect()
        legacy = detected.backend is Backend.LEGACY
        if legacy and to.reject.table not in detected.legacy_tables:
            fault: str | None = "the rule is missing"
        else:
            fault = (await (await driver_for(detected)).find(to.reject)).fault(to.reject)
        save = _save_program(detected)
        if save is None:
            return fault, ReadFailure("no iptables-save program is installed")
        tables = [each for each in RESTRICTED_TABLES if not legacy or each in detected.legacy_tables]
        saved = {each: (await run((save, "-t", each))).stdout for each in tables}
        return fault, tuple(each for each in tables if has_restriction(saved[each], to))
    except (StartError, RedirectError, ProgramTimeoutError) as error:
        return ReadFailure(str(error)), ReadFailure(str(error))


def _boot_guard(directory: Path) -> bool | ReadFailure:
    try:
        return boot_guard.installed(directory)
    except OSError as error:
        return ReadFailure(f"{directory} cannot be read ({error.strerror})")


async def _redirect(settings: Settings) -> tuple[str | ReadFailure | None, int | None]:
    rule = redirect_spec(settings).redirect
    try:
        detected = await detect()
        if detected.backend is Backend.LEGACY and rule.table not in detected.legacy_tables:
            return "the chain is missing", None
        there = await (await driver_for(detected)).find(rule)
        fault = there.fault(rule)
        return fault, None if fault else await _packets(detected, rule)
    except (StartError, RedirectError, ProgramTimeoutError) as error:
        return ReadFailure(str(error)), None


async def _packets(detected: DetectedBackend, rule: TopRule) -> int | None:
    save = _save_program(detected)
    if save is None:
        return None
    return packets_in((await run((save, "-c", "-t", rule.table))).stdout, rule.rules[0])


def _save_program(detected: DetectedBackend) -> str | None:
    """Return the iptables-save program of this node's backend."""
    programs = detected.programs
    nft = programs.nft.save if programs.nft is not None else None
    return programs.legacy_save if detected.backend is Backend.LEGACY else nft


def _kubenet(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return names_kubenet(file.read(READ_MAX))
    except OSError:
        return False


async def _imds(settings: Settings) -> str | ReadFailure:
    url = f"http://{settings.metadata_ip}:{settings.metadata_port}{VERSIONS}"
    limit = aiohttp.ClientTimeout(total=IMDS_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=False) as session,
            session.get(url, headers={"Metadata": "true"}, allow_redirects=False) as answer,
        ):
            if answer.status == 200:
                return f"{url} responds"
            return ReadFailure(f"{url} responds with status {answer.status}, which IMDS does not send")
    except TimeoutError:
        return ReadFailure(f"{url} did not respond within {IMDS_SECONDS:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return ReadFailure(f"{url} does not respond: {str(error) or type(error).__name__}")
