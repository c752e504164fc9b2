"""Reads what this machine says where it is a node. Changes nothing: of the legacy backend a table that is not there is
not even opened, since that would make it.
"""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp

from nmi.flag_table import RedirectMode
from nmi.node.backend import Backend, Detected, detect
from nmi.node.commands import ProgramTimeoutError, run
from nmi.node.kubenet import names_kubenet
from nmi.node.plumbing import driver_for, redirection_of
from nmi.node.rules import RedirectError, TopRule
from nmi.settings import Settings
from podidctl.doctor.redirects import NodeSeen, packets_in
from podidctl.inquiry.facts import Unread
from podidentity.exits import StartError

IMDS_SECONDS: Final = 5.0
READ_MAX: Final = 1 << 20
VERSIONS: Final = "/metadata/versions"
"""The one path of IMDS that names nobody and needs nothing."""


async def look(settings: Settings, *, pods: int | None, ask_imds: bool) -> NodeSeen:
    """What this machine says, which is the node that *settings* (of the NMI there) name."""
    wanted = settings.redirect is RedirectMode.NAT
    fault, packets = await _redirect(settings) if wanted else (None, None)
    return NodeSeen(
        name=settings.node_name,
        fault=fault,
        wanted=wanted,
        packets=packets,
        pods=pods,
        kubenet=await asyncio.to_thread(_kubenet, settings.kubelet_config),
        imds=await _imds(settings) if ask_imds else None,
    )


async def _redirect(settings: Settings) -> tuple[str | Unread | None, int | None]:
    rule = redirection_of(settings).redirect
    try:
        detected = await detect()
        if detected.backend is Backend.LEGACY and rule.table not in detected.legacy_tables:
            return "the chain is missing", None
        there = await (await driver_for(detected)).find(rule)
        fault = there.fault(rule)
        return fault, None if fault else await _packets(detected, rule)
    except (StartError, RedirectError, ProgramTimeoutError) as error:
        return Unread(str(error)), None


async def _packets(detected: Detected, rule: TopRule) -> int | None:
    programs = detected.programs
    nft = programs.nft.save if programs.nft is not None else None
    save = programs.legacy_save if detected.backend is Backend.LEGACY else nft
    if save is None:
        return None
    return packets_in((await run((save, "-c", "-t", rule.table))).stdout, rule.rules[0])


def _kubenet(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return names_kubenet(file.read(READ_MAX))
    except OSError:
        return False


async def _imds(settings: Settings) -> str | Unread:
    url = f"http://{settings.metadata_ip}:{settings.metadata_port}{VERSIONS}"
    limit = aiohttp.ClientTimeout(total=IMDS_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=False) as session,
            session.get(url, headers={"Metadata": "true"}, allow_redirects=False) as answer,
        ):
            if answer.status == 200:
                return f"{url} answers"
            return Unread(f"{url} answers {answer.status}, which is not what IMDS says")
    except TimeoutError:
        return Unread(f"{url} did not answer within {IMDS_SECONDS:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Unread(f"{url} does not answer: {str(error) or type(error).__name__}")
