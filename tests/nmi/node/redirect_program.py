"""The traffic redirect of a node, as `nmi.app` uses it: python -m tests.nmi.node.redirect_program FLAGS.

The variable LABELS has the labels of the node object, `null` while the API server does not respond.

Prints a JSON line of TrafficRedirect.state() before preparation, after it, after the installation, and then one for
each line of standard input. At the end of standard input it stops in order.
"""

import asyncio
import json
import logging
import os
import sys

from nmi.flag_table import RedirectMode
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import parse
from tests.nmi.node.standard_output import say

OWN = "10.244.0.9"
"""The node's address for --redirect=cilium, which has no other target."""


def tell(redirect: TrafficRedirect) -> None:
    say(json.dumps(redirect.state()))


async def main() -> None:
    settings = parse(["--node=n1", *sys.argv[1:]], {})
    redirect = TrafficRedirect(settings, OWN if settings.redirect is RedirectMode.CILIUM else None)
    tell(redirect)
    await redirect.prepare()
    await redirect.note_labels(json.loads(os.environ.get("LABELS", "{}")))
    tell(redirect)
    maintaining = asyncio.create_task(redirect.maintain())
    await redirect.install()
    tell(redirect)
    while await asyncio.to_thread(sys.stdin.readline):
        tell(redirect)
    maintaining.cancel()
    await asyncio.wait([maintaining])
    await redirect.remove()
    redirect.close()
    tell(redirect)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main())
