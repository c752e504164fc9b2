"""The program of machines.Worker: one RuleMaintenance with commands as JSON lines on standard input.

Each line contains an action, its rule (redirect or reject), and the target port of the redirect.
"""

import asyncio
import json
import logging
import os
import sys

from nmi.choices import RedirectMode, RedirectTarget
from nmi.node.conntrack import bypassing, find_conntrack, forget_bypassing
from nmi.node.node_facts import driver_for, find_programs, read_facts
from nmi.node.redirect_choice import Backend, choose
from nmi.node.rule_maintenance import RuleMaintenance
from nmi.node.rules import RedirectError, RedirectSpec, RuleDriver
from podidentity.exits import StartError

OUT = os.fdopen(os.dup(1), "w")
"""Standard output. While python-iptables reads a rule in a thread, it replaces descriptor 1 by a pipe, and output of
other threads is lost or fails.
"""
BACKENDS = {"legacy": Backend.IPTABLES_LEGACY, "nft": Backend.IPTABLES_NFT, "nftables": Backend.NFTABLES}


def say(response: object) -> None:
    """Write *response* as a line of JSON in one call."""
    OUT.write(json.dumps(response) + "\n")
    OUT.flush()


async def act(
    maintenance: RuleMaintenance, driver: RuleDriver, action: str, name: str = "redirect", port: int = 2579
) -> object:
    to = RedirectSpec("169.254.169.254", 80, "127.0.0.1", port)
    rule = to.reject if name == "reject" else to.redirect
    result: object = None
    match action:
        case "verify":
            result = await maintenance.verify()
        case "fault":
            result = (await driver.find(rule)).fault(rule)
        case "packets":
            result = await driver.packets(rule)
        case "forget":
            result = await forget_bypassing(to, await find_conntrack())
        case "bypassing":
            connections = await bypassing(to, await find_conntrack())
            result = sorted(connections) if connections is not None else None
        case "detect":
            result = choose((await read_facts()).facts, RedirectMode.AUTO, RedirectTarget.AUTO).backend
        case _:  # install, withdraw or remove
            await getattr(maintenance, action)(rule)
            result = maintenance.in_force(rule)
    return result


async def main(backend: str) -> None:
    driver = await driver_for(BACKENDS[backend], await find_programs())
    maintenance = RuleMaintenance(driver)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            say({"done": await act(maintenance, driver, *json.loads(line))})
        except (StartError, RedirectError) as error:
            say({"failed": str(error)})


if __name__ == "__main__":
    # Log lines come between the responses; their messages are constants without quotes.
    logging.basicConfig(stream=OUT, level=logging.INFO, format='{"log": "%(message)s"}')
    asyncio.run(main(sys.argv[1]))
