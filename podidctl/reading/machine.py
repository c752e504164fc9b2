"""Reader of this machine's state as a node. Makes no changes: with the legacy backend it does not open a table that
does not exist, because that would create it.
"""

import asyncio
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from nmi.choices import RedirectMode, RedirectTarget, RouteLocalnetMode
from nmi.node import boot_guard, route_localnet
from nmi.node.host_routing import HostRouting, by_kubelet
from nmi.node.kubenet import names_kubenet
from nmi.node.node_address import find as find_node_address
from nmi.node.node_facts import NodeReading, driver_for, read_facts
from nmi.node.redirect_choice import Backend, RedirectChoice, bypass, choose
from nmi.node.rule_text import normalized, rules_of, words
from nmi.node.rules import RedirectError, RedirectSpec, TopRule
from nmi.node.traffic_redirect import redirect_spec
from nmi.settings import NmiSettings
from nmi.subprocesses import ProgramTimeoutError, run
from podidctl.facts.model import FailClosedState, NodeState, ReadFailure
from podidctl.verify import canary
from podidentity.exits import StartError

RESTRICTED_TABLES: Final = ("filter", "mangle")
"""Tables in which AKS inserts its rule, depending on a setting of the node pool."""
_SOURCE: Final = re.compile(r"! -s \d{1,3}(\.\d{1,3}){3}/32 ")
IMDS_SECONDS: Final = 5.0
READ_MAX: Final = 1 << 20
VERSIONS: Final = "/metadata/versions"
"""The only path of IMDS that needs no identity."""


def is_restriction(rule: str, to: RedirectSpec) -> bool:
    """Return whether *rule* of FORWARD is AKS's IMDS restriction.

    Source: Azure/AgentBaker, parts/linux/cloud-init/artifacts/ensure_imds_restriction.sh: every source but the node's
    own address, IMDS's address and port, DROP. AKS's comment is not compared, because its text may change.
    """
    wanted = f"-d {to.metadata_ip}/32 -p tcp -m tcp --dport {to.metadata_port} -j DROP"
    return _SOURCE.sub("", normalized(rule)) == wanted


def has_restriction(saved: str, to: RedirectSpec) -> bool:
    """Return whether *saved*, a table in iptables-save's format, has AKS's rule before a rule that accepts
    everything.
    """
    # No packet reaches a rule behind one that accepts everything.
    before = itertools.takewhile(lambda rule: words(rule) != ["-j", "ACCEPT"], rules_of(saved, "FORWARD"))
    return any(is_restriction(rule, to) for rule in before)


@dataclass(frozen=True, slots=True)
class _Redirect:
    """The redirect of this node's NMI, as NMI chooses it."""

    reading: NodeReading
    choice: RedirectChoice
    to: RedirectSpec


async def read_node(settings: NmiSettings, *, pods: int | None, ask_imds: bool) -> NodeState:
    """Return the state of this machine, which is the node in *settings* (of the NMI on it)."""
    wanted = settings.redirect.changes_rules
    redirect = await _chosen(settings) if wanted else None
    fault, packets = await _fault(redirect) if redirect is not None else (None, None)
    chosen = redirect if isinstance(redirect, _Redirect) else None
    return NodeState(
        name=settings.node_name,
        fault=fault,
        wanted=wanted,
        choice=f"{chosen.choice.backend} to {chosen.choice.target}: {chosen.choice.reason}"
        if chosen is not None
        else "",
        bypass=bypass(chosen.reading.facts, chosen.choice.backend, redirected=bool(packets)) if chosen else None,
        ebpf=await asyncio.to_thread(by_kubelet, settings.kubelet_config) is HostRouting.EBPF,
        packets=packets,
        pods=pods,
        kubenet=await asyncio.to_thread(_kubenet, settings.kubelet_config),
        imds=await _imds(settings) if ask_imds else None,
        closing=await _fail_closed_state(settings, redirect) if redirect is not None else None,
    )


async def _chosen(settings: NmiSettings) -> _Redirect | ReadFailure:
    try:
        address = find_node_address(settings.node_ip, settings.metadata_ip).address
        reading = await read_facts(node_address=address)
        choice = choose(
            reading.facts,
            settings.redirect,
            settings.redirect_target,
            listen_address=settings.redirect_destination[0],
            sets_localnet=settings.route_localnet is RouteLocalnetMode.SET,
        )
    except (StartError, ProgramTimeoutError) as error:
        return ReadFailure(str(error))
    return _Redirect(
        reading, choice, redirect_spec(settings, address if choice.target is RedirectTarget.NODE else None)
    )


async def _fail_closed_state(settings: NmiSettings, redirect: _Redirect | ReadFailure) -> FailClosedState:
    fault, restricted = await _reject(redirect)
    local = isinstance(redirect, _Redirect) and route_localnet.needed(redirect.to.target_ip)
    return FailClosedState(
        wanted=settings.fail_closed,
        fault=fault,
        restricted=restricted,
        guard=await asyncio.to_thread(_boot_guard, Path(settings.systemd_directory)),
        localnet=await asyncio.to_thread(route_localnet.fault) if local else None,
    )


async def _reject(
    redirect: _Redirect | ReadFailure,
) -> tuple[str | ReadFailure | None, tuple[str, ...] | ReadFailure]:
    """Return the fault of the reject rule in NMI's backend, and the tables of iptables with AKS's rule."""
    if isinstance(redirect, ReadFailure):
        return redirect, redirect
    backend, programs, rule = redirect.choice.backend, redirect.reading.programs, redirect.to.reject
    try:
        legacy = backend is Backend.IPTABLES_LEGACY
        existing = redirect.reading.legacy_tables
        fault = await _fault_of(redirect, rule)
        save = programs.save(backend)
        if save is None:
            return fault, ReadFailure("no iptables-save program is installed")
        tables = [table for table in RESTRICTED_TABLES if not legacy or table in existing]
        saved = {table: (await run((save, "-t", table))).stdout for table in tables}
        return fault, tuple(table for table in tables if has_restriction(saved[table], redirect.to))
    except (StartError, RedirectError, ProgramTimeoutError) as error:
        return ReadFailure(str(error)), ReadFailure(str(error))


async def _fault_of(redirect: _Redirect, rule: TopRule) -> str | None:
    # iptables-legacy would create the table.
    if redirect.choice.backend is Backend.IPTABLES_LEGACY and rule.table not in redirect.reading.legacy_tables:
        return "the chain is missing" if rule.chain else "the rule is missing"
    driver = await driver_for(redirect.choice.backend, redirect.reading.programs)
    return (await driver.find(rule)).fault(rule)


async def _fault(redirect: _Redirect | ReadFailure) -> tuple[str | ReadFailure | None, int | None]:
    """Return the fault of the redirect, and the packets that matched it if it has none."""
    if isinstance(redirect, ReadFailure):
        return redirect, None
    try:
        rule = redirect.to.redirect
        if (fault := await _fault_of(redirect, rule)) is not None:
            return fault, None
        driver = await driver_for(redirect.choice.backend, redirect.reading.programs)
        return None, await driver.packets(rule)
    except (StartError, RedirectError, ProgramTimeoutError) as error:
        return ReadFailure(str(error)), None


def _boot_guard(directory: Path) -> bool | ReadFailure:
    try:
        return boot_guard.installed(directory)
    except OSError as error:
        return ReadFailure(f"{directory} cannot be read ({error.strerror})")


def _kubenet(config: Path) -> bool:
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return names_kubenet(file.read(READ_MAX))
    # Nodes other than AKS's have no such file.
    except OSError:
        return False


async def _is_nmis(response: aiohttp.ClientResponse) -> bool:
    document = canary.decoded(await response.content.read(canary.BODY_BYTES))
    return canary.sender(response.status, response.headers.get("Server", ""), document) == canary.NMI


async def _imds(settings: NmiSettings) -> str | ReadFailure:
    url = f"http://{settings.metadata_ip}:{settings.metadata_port}{VERSIONS}"
    limit = aiohttp.ClientTimeout(total=IMDS_SECONDS)
    try:
        async with (
            # Neither a proxy nor a redirect may lead to another server than the tested one.
            aiohttp.ClientSession(timeout=limit, trust_env=False) as session,
            session.get(url, headers={"Metadata": "true"}, allow_redirects=False) as response,
        ):
            if response.status == 200:
                return f"{url} responds"
            # Cilium also redirects the requests of programs on the node, as this one.
            if settings.redirect is RedirectMode.CILIUM and await _is_nmis(response):
                return f"{url} leads to NMI: Cilium redirects the programs of this node too"
            return ReadFailure(f"{url} responds with status {response.status}, which IMDS does not send")
    except TimeoutError:
        return ReadFailure(f"{url} did not respond within {IMDS_SECONDS:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return ReadFailure(f"{url} does not respond: {str(error) or type(error).__name__}")
