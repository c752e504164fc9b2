"""Access to the iptables rules of a sandbox's node, and functions that end and restart NMI there."""

import asyncio
import re
import signal
import subprocess

from podidentity_sandbox.fabric import Fabric
from podidentity_sandbox.sandbox import Sandbox

JUMP = "-A PREROUTING -j aad-metadata"
REDIRECT = (
    "-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 "
    "-j DNAT --to-destination 127.0.0.1:2579"
)
REJECT = "-A FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset"


def on_node(sandbox: Sandbox, *command: str) -> str:
    """Run *command* on the node and return its output."""
    assert isinstance(sandbox.network, Fabric)
    entered = ["ip", "netns", "exec", sandbox.network.node_namespace("node-0"), *command]
    return subprocess.run(entered, check=True, capture_output=True, text=True, timeout=60).stdout


def saved(sandbox: Sandbox, backend: str = "nft") -> list[str]:
    """Return the rules of every table, without counters and comments."""
    lines = on_node(sandbox, f"iptables-{backend}-save").splitlines()
    return [re.sub(r" ?\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#")]


async def end(sandbox: Sandbox, number: signal.Signals) -> int:
    """Send NMI a signal, wait for its end, and return its exit code."""
    program = sandbox.nmis["node-0"].program
    program.signal(number)
    async with asyncio.timeout(15):
        return await program.wait()


async def start_again(sandbox: Sandbox) -> None:
    await sandbox.start_nmi("node-0")
    await sandbox.nmi_active("node-0")
