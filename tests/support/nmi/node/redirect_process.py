"""The traffic redirect of a node, as `nmi.app` uses it, as a process with FLAGS.

The variable LABELS has the labels of the node object, `null` while the API server does not respond.

The program prints a JSON line of TrafficRedirect.state() before preparation, after it, after the installation, and then
one for each line of standard input. At the end of standard input it stops in order.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from nmi.choices import RedirectMode
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import parse
from tests.support.nmi.node.machines import Machine, Program
from tests.support.waiting import until_sync

OWN = "10.244.0.9"
"""The node's address for --redirect=cilium, which has no other target."""
State = dict[str, Any]
NO_LABELS: dict[str, str] = {}


class RedirectProcess(Program):
    """The process; its states are in `states`. Stopped in order at the end of its `with`."""

    def __init__(
        self, machine: Machine, *flags: str, labels: dict[str, str] | None = NO_LABELS, within: Sequence[str] = ()
    ) -> None:
        """*labels*: those of the node object; None while the API server does not respond. *within*: words before the
        command, which start it.
        """
        self.states: list[State] = []
        module = (sys.executable, "-m", "tests.support.nmi.node.redirect_process")
        super().__init__(machine.start(*within, "env", f"LABELS={json.dumps(labels)}", *module, *flags))

    def next(self) -> State:
        """The next state that it prints."""
        line = self.read()
        assert line, "it has ended"
        self.states.append(json.loads(line))
        return self.states[-1]

    def installed(self) -> State:
        """The state after the installation."""
        while len(self.states) < 3:
            self.next()
        return self.states[-1]

    def now(self) -> State:
        """Return the present state."""
        self.write()
        return self.next()

    def until(self, holds: Callable[[State], bool]) -> State:
        """Return the first state for which *holds* returns True."""
        return until_sync(self.now, "a state", holds=holds)

    @override
    def end(self) -> tuple[int, str]:
        code, output = super().end()
        assert code in {0, -signal.SIGKILL}
        return code, output


async def main() -> None:
    from tests.support.nmi.node.rule_worker import say  # noqa: PLC0415  it duplicates a descriptor of the program

    settings = parse(["--node=n1", *sys.argv[1:]], {})
    redirect = TrafficRedirect(settings, OWN if settings.redirect is RedirectMode.CILIUM else None)

    def tell() -> None:
        say(redirect.state())

    tell()
    await redirect.prepare()
    await redirect.note_labels(json.loads(os.environ.get("LABELS", "{}")))
    tell()
    maintaining = asyncio.create_task(redirect.maintain())
    await redirect.install()
    tell()
    while await asyncio.to_thread(sys.stdin.readline):
        tell()
    maintaining.cancel()
    await asyncio.wait([maintaining])
    await redirect.remove()
    redirect.close()
    tell()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    asyncio.run(main())
