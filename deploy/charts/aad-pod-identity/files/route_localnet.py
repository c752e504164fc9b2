"""Switches route_localnet on for the node, in a privileged init container of NMI, with what guards 127.0.0.1 first.

NMI then keeps the guard, and finds nothing left to switch.
"""

import asyncio
import sys

from nmi.node import route_localnet
from nmi.node.backend import detect
from nmi.node.rules import LockHeldError
from podidentity.exits import StartError


async def main() -> None:
    """Exits with what to do where it cannot be done; the kubelet then tries again."""
    detected = await detect()
    if detected.iptables is None:
        sys.exit("the image has no iptables program for this node's backend: set nmi.routeLocalnet to check")
    try:
        await route_localnet.ensure_guard(detected.iptables)
        route_localnet.switch_on()
    except (LockHeldError, StartError) as error:
        sys.exit(str(error))


asyncio.run(main())
