"""Enable route_localnet on the node, in a privileged init container of NMI, after the guard rule for 127.0.0.1.

NMI then maintains the guard rule.
"""

import asyncio
import sys

from nmi.node import route_localnet
from nmi.node.backend import detect
from nmi.node.rules import LockHeldError
from podidentity.exits import StartError


async def main() -> None:
    """Enable it, or exit with the next action; the kubelet then retries."""
    detected = await detect()
    if detected.iptables is None:
        sys.exit("the image has no iptables program for this node's backend: set nmi.routeLocalnet to check")
    try:
        await route_localnet.ensure_guard(detected.iptables)
        route_localnet.switch_on()
    except (LockHeldError, StartError) as error:
        sys.exit(str(error))


asyncio.run(main())
