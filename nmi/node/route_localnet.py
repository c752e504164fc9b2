"""route_localnet: without it the kernel silently drops packets that a nat rule sends from another interface to
127.0.0.1.

kube-proxy in iptables mode sets it, others do not. It also exposes every service on 127.0.0.1 of this node to its
neighbours (CVE-2020-8558), so NMI adds the guard in filter/INPUT when it sets it. NMI reverts neither at exit: other
programs may need route_localnet by then, and then they need the guard, too.
"""

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from nmi.node.refused_rules import NOT_PERMITTED, REFUSED
from nmi.node.rule_text import all_rules, rules_of, words
from nmi.node.rules import LockHeldError
from nmi.subprocesses import Finished, ProgramTimeoutError, run
from podidentity.exits import StartError

CONF = Path("/proc/sys/net/ipv4/conf")
"""One directory for each interface, and `all` and `default`."""

MOUNTED = Path("/run/route_localnet")
"""Where the chart mounts the node's route_localnet of `all` writable: /proc/sys is read-only in a container that is not
privileged. The kernel lets a process with NET_ADMIN write it."""

COMMAND = "sysctl -w net.ipv4.conf.all.route_localnet=1"
"""The command for operators; /etc/sysctl.d makes it permanent."""
COMMAND_OFF = "sysctl -w net.ipv4.conf.all.route_localnet=0"

GUARD = (
    *("!", "-s", "127.0.0.0/8", "-d", "127.0.0.0/8"),
    *("-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED,DNAT", "-j", "DROP"),
)
"""The rule that blocks neighbours; kubelet and kube-proxy keep an equal one in a chain of theirs."""

_BUSY = 4
"""The exit code of iptables without the lock; it has a few other meanings, too."""


def needed(target_ip: str) -> bool:
    """Return whether a redirect to *target_ip* needs route_localnet."""
    return ipaddress.IPv4Address(target_ip).is_loopback


def fault(conf: Path = CONF) -> str | None:
    """Return why pods cannot be redirected to 127.0.0.1, with the command that fixes it; None if they can.

    `all` covers every interface. Without it each interface counts, including those of future pods (`default`).
    """
    if _is_on(conf / "all"):
        return None
    off = sorted(
        interface.name for interface in conf.iterdir() if interface.name not in ("all", "lo") and not _is_on(interface)
    )
    if not off:
        return None
    return (
        f"route_localnet is 0 for {', '.join(off[:3])}{' and others' if len(off) > 3 else ''}, so the kernel drops "
        f"pods' requests on their way to 127.0.0.1: run `{COMMAND}` on the node, or start NMI with --route-localnet=set"
    )


def switch_on(conf: Path = CONF, mounted: Path = MOUNTED) -> None:
    """Set it for all interfaces, through *mounted* if that exists. Raises StartError if it cannot be written."""
    file = mounted if mounted.exists() else conf / "all" / "route_localnet"
    try:
        file.write_text("1\n")
    except OSError as error:
        raise StartError(
            f"--route-localnet=set cannot write {file} ({error.strerror}): mount the node's "
            f"{conf}/all/route_localnet at {mounted}, give NMI a writable /proc/sys, or run `{COMMAND}` on the node "
            f"and leave it at --route-localnet=check"
        ) from error


def is_on_anywhere(conf: Path = CONF) -> bool:
    """Return whether an interface accepts packets of its network to 127.0.0.1."""
    return any(_is_on(interface) for interface in conf.iterdir() if interface.name != "lo")


def _is_on(interface: Path) -> bool:
    try:
        return (interface / "route_localnet").read_text().strip() != "0"  # any other number switches it on
    except FileNotFoundError:
        return True  # the interface was removed after it was listed


def guarded(rules: Iterable[tuple[str, str]]) -> bool:
    """Return whether filter's *rules* contain the guard in INPUT, or in a chain that INPUT enters for every packet."""
    listed = [(chain, words(rule)) for chain, rule in rules if chain == "INPUT" or "--ctstate" in rule]
    # kubelet and kube-proxy keep an equal rule in a chain of theirs, which INPUT enters without a condition.
    entered = {"INPUT"} | {
        rule[1] for chain, rule in listed if chain == "INPUT" and rule[:1] == ["-j"] and len(rule) == 2
    }
    return any(chain in entered and _normalized_guard(rule) == _normalized_guard(GUARD) for chain, rule in listed)


def _normalized_guard(rule: Iterable[str]) -> list[str]:
    """Return *rule* with its connection states sorted: iptables prints them in its own order."""
    return [",".join(sorted(word.split(","))) for word in rule]


async def ensure_guard(iptables: str) -> bool:
    """Insert the guard into filter/INPUT unless it or an equal rule exists. Return whether it was inserted.

    Raises LockHeldError while another program writes, StartError if it cannot be inserted.
    """
    listed = await _filter(iptables, "-S")
    if listed.code == 0 and guarded(all_rules(listed.stdout)):
        return False
    # First, because an earlier rule could accept the packets that the guard must drop.
    done = await _filter(iptables, "-I", "INPUT", "1", *GUARD)
    if done.not_permitted:
        raise StartError(f"{NOT_PERMITTED if listed.not_permitted else REFUSED} ({done.complaint})")
    if done.code != 0:
        raise StartError(
            f"the guard of 127.0.0.1 cannot be inserted into filter/INPUT ({done.complaint}): insert it manually, set "
            f"route_localnet, and start NMI with --route-localnet=check"
        )
    return True


async def has_guard(iptables: str) -> bool:
    """Return whether INPUT itself has the guard. Raises LockHeldError, StartError if INPUT cannot be read."""
    listed = await _filter(iptables, "-S", "INPUT")
    if listed.code != 0:
        raise StartError(
            f"{iptables} cannot read filter/INPUT ({listed.complaint}): look there for the guard of 127.0.0.1"
        )
    return any(_normalized_guard(words(rule)) == _normalized_guard(GUARD) for rule in rules_of(listed.stdout, "INPUT"))


async def remove_guard(iptables: str) -> None:
    """Delete the guard from INPUT. Raises LockHeldError while another program writes, StartError if it may remain."""
    while await has_guard(iptables):
        done = await _filter(iptables, "-D", "INPUT", *GUARD)
        if done.code != 0:
            raise StartError(
                f"the guard of 127.0.0.1 cannot be removed from filter/INPUT ({done.complaint}): remove it manually"
            )


async def _filter(iptables: str, *words: str) -> Finished:
    try:
        done = await run((iptables, "-w", "1", "-t", "filter", *words))
    except ProgramTimeoutError as error:
        raise LockHeldError(str(error)) from error
    if done.code == _BUSY and "xtables lock" in done.stderr:
        raise LockHeldError(done.complaint)
    return done
