"""The traffic redirect of a node, as `nmi.app` uses it, as a process with FLAGS.

The variable LABELS has the labels of the node object, `null` while the API server does not respond.

The program prints a JSON line of TrafficRedirect.state() before preparation, after it, after the installation, and then
one for each line of standard input. At the end of standard input it stops in order.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Self

from nmi.flag_table import RedirectMode
from nmi.node.traffic_redirect import TrafficRedirect
from nmi.settings import parse
from tests.support.nmi.node.machines import SECONDS, Machine
from tests.support.waiting import until_sync

OWN = "10.244.0.9"
"""The node's address for --redirect=cilium, which has no other target."""
State = dict[str, Any]
NO_LABELS: dict[str, str] = {}


class RedirectProcess:
    """The process; its states are in `states`. Stopped in order at the end of its `with`."""

    def __init__(self, machine: Machine, *flags: str, labels: dict[str, str] | None = NO_LABELS) -> None:
        """*labels*: those of the node object; None while the API server does not respond."""
        self.states: list[State] = []
        words = (
            f"LABELS={json.dumps(labels)}",
            sys.executable,
            "-m",
            "tests.support.nmi.node.redirect_process",
            *flags,
        )
        self._process = machine.start("env", *words)

    @property
    def pid(self) -> int:
        return self._process.pid

    def next(self) -> State:
        """The next state that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"it has ended with {self._process.wait(SECONDS)}"
        self.states.append(json.loads(line))
        return self.states[-1]

    def installed(self) -> State:
        """The state after the installation."""
        while len(self.states) < 3:
            self.next()
        return self.states[-1]

    def now(self) -> State:
        """Return the present state."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.next()

    def until(self, holds: Callable[[State], bool]) -> State:
        """Return the first state for which *holds* returns True."""
        return until_sync(self.now, "a state", holds=holds)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self) -> State:
        """Stop the process with SIGTERM, and return its last state."""
        output, _ = self._process.communicate(timeout=SECONDS)
        assert self._process.returncode == 0
        state: State = json.loads(output.splitlines()[-1])
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=SECONDS)


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
