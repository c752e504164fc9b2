"""Changes of the rules by other programs, and their repair without changes of the other programs' rules.

Excluded: the first installation (test_redirect_in_force).
"""

import threading

import pytest

from tests.support.nmi.node.machines import JUMP, REJECT, Lock, Machine, Worker

pytestmark = pytest.mark.root

RULE = REJECT.removeprefix("-A FORWARD ")
MATCH = "-d 169.254.169.254 -p tcp --dport 80"
DNAT = f"{MATCH} -j DNAT --to-destination 127.0.0.1:2579"
DAMAGES = {
    "redirect": {
        "the chain is emptied": ("-F aad-metadata", "the chain holds other rules"),
        "the jump is deleted": ("-D PREROUTING -j aad-metadata", "the jump is missing"),
        "jump and chain are deleted": (
            "-D PREROUTING -j aad-metadata; -F aad-metadata; -X aad-metadata",
            "the chain is missing",
        ),
        "a rule is put before the jump": ("-I PREROUTING 1 -p udp -j OTHER", "other rules come before the jump"),
        "the jump is doubled": ("-A PREROUTING -j aad-metadata", "the jump is there more than once"),
        "the jump gets a condition": (
            "-D PREROUTING -j aad-metadata; -I PREROUTING 1 -i eth9 -j aad-metadata",
            "the jump has conditions",
        ),
        "the jump becomes a goto": (
            "-D PREROUTING -j aad-metadata; -I PREROUTING 1 -g aad-metadata",
            "the jump has conditions",
        ),
        "a rule is put into the chain": ("-I aad-metadata 1 -p tcp -j ACCEPT", "the chain holds other rules"),
        "a rule is appended to the chain": ("-A aad-metadata -p tcp -j ACCEPT", "the chain holds other rules"),
        "the rule leads elsewhere": (
            f"-R aad-metadata 1 {MATCH} -j DNAT --to-destination 10.6.6.6:80",
            "the chain holds other rules",
        ),
        "only one pod is led": (f"-R aad-metadata 1 -s 10.1.1.1 {DNAT}", "the chain holds other rules"),
        "loopback is led as well": (f"-R aad-metadata 1 {DNAT}", "the chain holds other rules"),
    },
    "reject": {
        "it is deleted": ("-D FORWARD 1", "the rule is missing"),
        "a rule is put before it": ("-I FORWARD 1 -p udp -j ACCEPT", "other rules come before the rule"),
        "it is doubled": (f"-A FORWARD {RULE}", "the rule is there more than once"),
        "it gets a condition": (f"-R FORWARD 1 -i eth9 {RULE}", "the rule is missing"),
        "it answers otherwise": (f"-R FORWARD 1 {MATCH} -j REJECT", "the rule is missing"),
        "it becomes an accept": (f"-R FORWARD 1 {MATCH} -j ACCEPT", "the rule is missing"),
    },
}
TABLE = "table ip aad-pod-identity"
RESET = f"nft delete {TABLE} && nft add {TABLE}"
FLUSH = "nft flush chain ip aad-pod-identity prerouting"
ADD = "nft add rule ip aad-pod-identity prerouting"
ADD_CHAIN = "nft 'add chain ip aad-pod-identity prerouting"
DESTINATION = "ip daddr 169.254.169.254 tcp dport 80"
TO_NMI = "counter dnat to 127.0.0.1:2579"
DAMAGES_OF_THE_TABLE = {
    "flush ruleset": "nft flush ruleset",
    "dormant table": f"nft add {TABLE} '{{ flags dormant; }}'",
    "chain": f"{FLUSH} && nft delete chain ip aad-pod-identity prerouting",
    "rule": FLUSH,
    "rule before it": "nft insert rule ip aad-pod-identity prerouting ip saddr 10.244.0.7 accept",
    "the same rule twice": f"{ADD} {DESTINATION} dnat to 127.0.0.1:2579",
    "other destination": f"{FLUSH} && {ADD} ip saddr != 127.0.0.1 {DESTINATION} counter dnat to 127.0.0.1:2580",
    "more conditions": f"{FLUSH} && {ADD} ip saddr != 127.0.0.1 ip saddr != 10.244.0.7 {DESTINATION} {TO_NMI}",
    "no conditions": f"{FLUSH} && {ADD} meta l4proto tcp {TO_NMI}",
    "other hook": f"{RESET} && {ADD_CHAIN} {{ type nat hook output priority -101; }}'",
    "later priority": f"{RESET} && {ADD_CHAIN} {{ type nat hook prerouting priority -99; }}'",
    "drop policy": f"{ADD_CHAIN} {{ type nat hook prerouting priority -101; policy drop; }}'",
    "foreign chain": "nft add chain ip aad-pod-identity other '{ type nat hook prerouting priority -102; }'",
    "foreign set": "nft add set ip aad-pod-identity other '{ type ipv4_addr; }'",
    "foreign map that leads to a chain": "nft add chain ip aad-pod-identity other && "
    "nft add map ip aad-pod-identity m '{ type ipv4_addr : verdict; elements = { 10.0.0.1 : jump other }; }'",
    "foreign counter": "nft add counter ip aad-pod-identity other",
}
TABLES = {"redirect": ("nat", "OTHER", "aad-metadata"), "reject": ("filter", "KUBE-FORWARD", "FORWARD")}
"""The table of each rule, a chain of another program in it, and the chain with the rule."""


@pytest.mark.parametrize(("rule", "damage"), [(rule, damage) for rule in DAMAGES for damage in DAMAGES[rule]])
def test_a_damaged_rule_is_found_and_repaired(
    node: Machine, worker: Worker, backend: str, rule: str, damage: str
) -> None:
    commands, fault = DAMAGES[rule][damage]
    worker.do("install", rule)
    chain = node.rules(backend, "aad-metadata")
    for command in commands.split("; "):
        node.run(f"iptables-{backend}", "-w", "-t", TABLES[rule][0], *command.split())
    assert worker.do("fault", rule) == fault
    assert worker.do("verify") is True
    first, *others = node.rules(backend, "FORWARD" if rule == "reject" else "PREROUTING")
    assert first == (REJECT if rule == "reject" else JUMP)
    assert not [line for line in others if line == first or "aad-metadata" in line.split()]
    assert node.rules(backend, "aad-metadata") == chain
    assert worker.do("verify") is False


def test_a_flush_of_the_whole_table_is_repaired(node: Machine, worker: Worker, backend: str) -> None:
    worker.do("install")
    node.run(f"iptables-{backend}", "-t", "nat", "-F")
    node.run(f"iptables-{backend}", "-t", "nat", "-X")
    assert worker.do("verify") is True
    assert node.rules(backend, "PREROUTING") == ["-A PREROUTING -j aad-metadata"]
    assert worker.do("fault") is None


@pytest.mark.parametrize("backend", ["nftables"])
@pytest.mark.parametrize("damage", DAMAGES_OF_THE_TABLE)
def test_a_damaged_table_is_found_and_repaired(node: Machine, worker: Worker, damage: str) -> None:
    worker.do("install")
    once = node.run("nft", "list", "table", "ip", "aad-pod-identity")
    node.run("sh", "-c", DAMAGES_OF_THE_TABLE[damage])
    assert worker.do("fault") is not None
    assert worker.do("verify") is True
    assert worker.do("fault") is None
    assert node.run("nft", "list", "table", "ip", "aad-pod-identity") == once
    assert worker.do("verify") is False


@pytest.mark.parametrize("backend", ["nftables"])
def test_both_rules_are_repaired_after_foreign_objects_and_a_flush(node: Machine, worker: Worker) -> None:
    worker.do("install", "reject")
    worker.do("install")
    for damage in ("foreign set", "flush ruleset"):
        node.run("sh", "-c", DAMAGES_OF_THE_TABLE[damage])
        while worker.do("verify"):
            pass
        assert worker.do("fault", "reject") is None
        assert worker.do("fault") is None


@pytest.mark.parametrize("rule", TABLES)
def test_foreign_rules_and_their_counters_survive_installation_repair_and_removal(
    node: Machine, worker: Worker, backend: str, rule: str
) -> None:
    table, chain, own = TABLES[rule]
    foreign = f"[7:700] -A {chain} -s 10.9.9.9/32 -j RETURN"
    node.run(f"iptables-{backend}-restore", "--noflush", "--counters", given=f"*{table}\n{foreign}\nCOMMIT\n")
    worker.do("install", rule)
    node.run(f"iptables-{backend}", "-t", table, "-F", own)
    assert worker.do("verify") is True
    assert foreign in node.run(f"iptables-{backend}-save", "-c", "-t", table)
    worker.do("remove", rule)
    assert foreign in node.run(f"iptables-{backend}-save", "-c", "-t", table)


def test_concurrent_foreign_writes_are_not_lost(node: Machine, worker: Worker, backend: str) -> None:
    worker.do("install")
    written = [f"10.7.0.{number}" for number in range(1, 61)]

    def write() -> None:
        for address in written:
            node.run(f"iptables-{backend}", "-w", "-t", "nat", "-A", "OTHER", "-s", address, "-j", "RETURN")

    writer = threading.Thread(target=write)
    writer.start()
    repairs = 0
    while writer.is_alive():
        node.run(f"iptables-{backend}", "-w", "-t", "nat", "-F", "aad-metadata")
        repairs += worker.do("verify")
    writer.join()
    assert repairs > 0
    assert worker.do("fault") is None
    rules = node.rules(backend, "OTHER")
    assert [rule for address in written for rule in rules if f"-s {address}/32 " in rule] == [
        f"-A OTHER -s {address}/32 -j RETURN" for address in written
    ]


def test_a_writer_without_the_lock_does_not_make_the_repair_fail(machine: Machine, backend: str) -> None:
    command = f"XTABLES_LOCKFILE=/run/other iptables-{backend} -t nat -A OUTPUT -s 10.7.0.1 -j RETURN"
    script = f"for i in $(seq 100); do {command}; done 2>/dev/null"
    with Worker(machine, backend) as worker, machine.start("sh", "-c", script) as writer:
        while writer.poll() is None:
            worker.do("remove")
            worker.do("install")
        worker.do("verify")
        assert worker.do("fault") is None


@pytest.mark.parametrize("action", ["install", "verify", "remove"])
def test_a_repair_waits_for_a_held_lock(machine: Machine, action: str) -> None:
    with Worker(machine, "legacy") as worker:
        if action != "install":
            worker.do("install")
        if action == "verify":
            machine.run("iptables-legacy", "-t", "nat", "-F", "aad-metadata")
        with Lock(machine):
            assert "waiting for the xtables lock" in worker.start(action)
        worker.result()
        assert machine.run("flock", "--nonblock", "/run/xtables.lock", "echo", "free") == "free\n"
        assert worker.do("fault") == ("the chain is missing" if action == "remove" else None)
