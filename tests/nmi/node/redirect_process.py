"""The program tests.nmi.node.redirect_program as an object."""

import json
import sys
from collections.abc import Callable
from typing import Any, Self

from tests.nmi.node.machines import SECONDS, Machine
from tests.support.waiting import until_sync

State = dict[str, Any]
NO_LABELS: dict[str, str] = {}


class RedirectProcess:
    """The process; its states are in `states`. Stopped in order at the end of its `with`."""

    def __init__(self, machine: Machine, *flags: str, labels: dict[str, str] | None = NO_LABELS) -> None:
        """*labels*: those of the node object; None while the API server does not respond."""
        self.states: list[State] = []
        words = (f"LABELS={json.dumps(labels)}", sys.executable, "-m", "tests.nmi.node.redirect_program", *flags)
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
