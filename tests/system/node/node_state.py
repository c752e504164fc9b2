"""The network state of a node, and what a program has left in it."""

import re
from collections.abc import Iterator
from typing import Final

from tests.system.node.node import Node

SYSCTLS: Final = ("net/ipv4/conf/all/route_localnet", "net/ipv4/conf/default/route_localnet", "net/ipv4/ip_forward")
_HEAD: Final = re.compile(r"(table|chain|set|map) ([^{]+) \{$")
_OF_KUBE_PROXY: Final = re.compile(r"\bKUBE-|^table ip6? kube-proxy\b")
_OF_IPTABLES: Final = re.compile(
    r"^table ip6? (?:nat|filter|mangle)"
    r"(?:: chain (?:PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING)(?:: type .*)?)?$"
)
"""The tables and base chains of iptables, which creates them when a program first uses them, and never removes them.
The kubelet creates them again up to a minute after a flush."""


def read_node_state(node: Node) -> frozenset[str]:
    """Return tables, chains and rules of netfilter on a running node, and kernel settings, one per line.

    Those of kube-proxy are left out, and the tables and base chains of iptables, but not their rules. Legacy tables are
    read only if they exist, because reading creates them. Raise BedError.
    """
    lines = set(_nft_lines(node.run("nft", "--stateless", "list", "ruleset")))
    for table in node.done("cat", "/proc/net/ip_tables_names").stdout.split():
        for line in node.run("iptables-legacy-save", "--table", table).splitlines():
            # The kernel's own chains have a policy.
            if line.startswith("-A") or (line.startswith(":") and line.split()[1] == "-"):
                lines.add(f"legacy table {table}: {line.partition(' [')[0]}")
    lines = {line for line in lines if not _OF_KUBE_PROXY.search(line) and not _OF_IPTABLES.match(line)}
    return frozenset(lines | {f"{name} = {node.run('cat', f'/proc/sys/{name}').strip()}" for name in SYSCTLS})


def _nft_lines(listed: str) -> Iterator[str]:
    """Yield each table, chain and rule of nft's listing, with the names of its table and chain in front."""
    table = place = ""
    for line in (raw.strip() for raw in listed.splitlines()):
        if head := _HEAD.match(line):
            if head[1] == "table":
                table = line.removesuffix(" {")
            place = table if head[1] == "table" else f"{table}: chain {head[2]}"
            yield place
        elif line not in {"", "}"} and not line.startswith("#"):
            yield f"{place}: {line}"
