"""What machines.Worker runs inside a machine: one Redirect, told what to do in JSON lines on standard input."""

import asyncio
import json
import logging
import sys
from typing import Any

from nmi.node.backend import detect, find_programs
from nmi.node.conntrack import find_conntrack, forget_bypassing
from nmi.node.legacy import LegacyDriver
from nmi.node.nft import NftDriver
from nmi.node.redirect import Driver, Redirect, RedirectError, RedirectRule
from podidentity.exits import StartError

RULE = RedirectRule("169.254.169.254", 80, "127.0.0.1", 2579)


def tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def act(redirects: dict[int, Redirect], driver: Driver, action: str, port: int = RULE.target_port) -> object:
    rule = RedirectRule(RULE.metadata_ip, RULE.metadata_port, RULE.target_ip, port)
    redirect = redirects.setdefault(port, Redirect(rule, driver))
    match action:
        case "install":
            await redirect.install()
        case "verify":
            return await redirect.verify()
        case "remove":
            await redirect.remove()
        case "fault":
            return (await driver.find()).fault(rule)
        case "clear":
            await driver.clear()
        case "forget":
            return await forget_bypassing(rule, await find_conntrack())
        case "detect":
            return (await detect()).backend
        case _:
            raise ValueError(action)
    return redirect.present()


async def main(backend: str) -> None:
    programs = await find_programs()
    assert programs.nft is not None
    driver: Driver = LegacyDriver() if backend == "legacy" else NftDriver(programs.nft)
    redirects: dict[int, Redirect] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            tell({"done": await act(redirects, driver, *json.loads(line))})
        except (StartError, RedirectError) as error:
            tell({"failed": str(error)})


if __name__ == "__main__":
    # Log lines come between the answers; their messages are constants without quotes.
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format='{"log": "%(message)s"}')
    asyncio.run(main(sys.argv[1]))
