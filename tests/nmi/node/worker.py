"""What machines.Worker runs inside a machine: one Upkeep, told what to do in JSON lines on standard input.

Each line is an action, the rule it is about (redirect or reject), and the port that the redirect leads to.
"""

import asyncio
import json
import logging
import sys
from typing import Any

from nmi.node.backend import detect, find_programs
from nmi.node.conntrack import find_conntrack, forget_bypassing
from nmi.node.legacy import LegacyDriver
from nmi.node.nft import NftDriver
from nmi.node.rules import Driver, RedirectError, Redirection
from nmi.node.upkeep import Upkeep
from podidentity.exits import StartError
from tests.nmi.node.saying import OUT, say

TO = Redirection("169.254.169.254", 80, "127.0.0.1", 2579)


def tell(answer: dict[str, Any]) -> None:
    say(json.dumps(answer))


async def act(
    upkeep: Upkeep, driver: Driver, action: str, name: str = "redirect", port: int = TO.target_port
) -> object:
    to = Redirection(TO.metadata_ip, TO.metadata_port, TO.target_ip, port)
    rule = to.reject if name == "reject" else to.redirect
    match action:
        case "install":
            await upkeep.install(rule)
        case "verify":
            return await upkeep.verify()
        case "withdraw":
            await upkeep.withdraw(rule)
        case "remove":
            await upkeep.remove(rule)
        case "fault":
            return (await driver.find(rule)).fault(rule)
        case "forget":
            return await forget_bypassing(to, await find_conntrack())
        case "detect":
            return (await detect()).backend
        case _:
            raise ValueError(action)
    return upkeep.in_force(rule)


async def main(backend: str) -> None:
    programs = await find_programs()
    assert programs.nft is not None
    driver: Driver = LegacyDriver() if backend == "legacy" else NftDriver(programs.nft)
    upkeep = Upkeep(driver)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            tell({"done": await act(upkeep, driver, *json.loads(line))})
        except (StartError, RedirectError) as error:
            tell({"failed": str(error)})


if __name__ == "__main__":
    # Log lines come between the answers; their messages are constants without quotes.
    logging.basicConfig(stream=OUT, level=logging.INFO, format='{"log": "%(message)s"}')
    asyncio.run(main(sys.argv[1]))
