"""A node's plumbing as `nmi.app` uses it, in a process on a machine: python -m tests.nmi.node.plumbed FLAGS.

Says a JSON line of Plumbing.state() before preparation, after it, after the installation, and then one for each line of
standard input, at whose end it stops in order.
"""

import asyncio
import json
import logging
import sys

from nmi.node.plumbing import Plumbing
from nmi.settings import parse
from tests.nmi.node.saying import say


def tell(plumbing: Plumbing) -> None:
    say(json.dumps(plumbing.state()))


async def main() -> None:
    plumbing = Plumbing(parse(["--node=n1", *sys.argv[1:]], {}))
    tell(plumbing)
    await plumbing.prepare()
    tell(plumbing)
    maintaining = asyncio.create_task(plumbing.maintain())
    await plumbing.install()
    tell(plumbing)
    while await asyncio.to_thread(sys.stdin.readline):
        tell(plumbing)
    maintaining.cancel()
    await asyncio.wait([maintaining])
    await plumbing.remove()
    tell(plumbing)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main())
