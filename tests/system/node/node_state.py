"""The network state of a node, and what a program has left in it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.system.node.node import Node

SYSCTLS: Final = ("net/ipv4/conf/all/route_localnet", "net/ipv4/conf/default/route_localnet", "net/ipv4/ip_forward")
_TABLE: Final = re.compile(r"table (\w+ \S+) \{")
_CHAIN: Final = re.compile(r"(?:chain|set|map) (\S+) \{")
_OF_KUBE_PROXY: Final = re.compile(r"\bKUBE-|^table ip6? kube-proxy\b")
_OF_IPTABLES: Final = re.compile(
    r"^table ip6? (?:nat|filter|mangle)(?:: chain (?:PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING))?$"
)


@dataclass(frozen=True, slots=True)
class NodeState:
    """Tables, chains and rules of netfilter, without those of kube-proxy, and kernel settings, one per line."""

    rules: frozenset[str]
    settings: frozenset[str]

    def left_since(self, before: "NodeState") -> list[str]:
        """Return the lines that this state has in addition to *before*, sorted.

        The tables and base chains of iptables do not count: iptables creates them when a program first uses them, and
        never removes them, and the kubelet creates them again up to a minute after a flush. Their rules count.
        """
        rules = {each for each in self.rules - before.rules if not _is_base(each)}
        return sorted(rules | (self.settings - before.settings))


def read_node_state(node: Node) -> NodeState:
    """Return the state of a running node. Legacy tables are read only if they exist, because reading creates them.

    Raise BedError.
    """
    rules = set(nft_lines(node.run("nft", "--stateless", "list", "ruleset")))
    for table in node.done("cat", "/proc/net/ip_tables_names").stdout.split():
        rules.update(legacy_lines(table, node.run("iptables-legacy-save", "--table", table)))
    settings = {f"{each} = {node.run('cat', f'/proc/sys/{each}').strip()}" for each in SYSCTLS}
    return NodeState(frozenset(each for each in rules if not _OF_KUBE_PROXY.search(each)), frozenset(settings))


def nft_lines(listed: str) -> Iterator[str]:
    """Yield each table, chain and rule of nft's listing, with the names of its table and chain in front."""
    table = chain = ""
    for line in (raw.strip() for raw in listed.splitlines()):
        if not line or line.startswith("#"):
            continue
        if found := _TABLE.match(line):
            table, chain = found[1], ""
            yield f"table {table}"
        elif found := _CHAIN.match(line):
            chain = found[1]
            yield f"table {table}: chain {chain}"
        elif line != "}":
            yield f"table {table}: chain {chain}: {line}"


def legacy_lines(table: str, saved: str) -> Iterator[str]:
    """Yield each rule, and each chain other than the kernel's, of a legacy table in the syntax of iptables-save."""
    for line in saved.splitlines():
        if line.startswith("-A") or (line.startswith(":") and line.split()[1] == "-"):
            yield f"legacy table {table}: {line.partition(' [')[0]}"


def _is_base(line: str) -> bool:
    """Return whether a line is a table or a base chain of iptables, and not a rule."""
    return _OF_IPTABLES.match(line.partition(": type ")[0]) is not None
