"""Rounds of measurements of all servers, with repetitions if another process used the cores.

Even rounds measure the servers in order, odd ones in reverse, so that a slow change of the machine's speed favours
none.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.machine import Cores
from benchmarks.paired import LEAST_ROUNDS, Round, Sample

OTHERS: Final = 0.08
"""The share of a core that other processes may use on both cores during a measurement."""
LOOK_SECONDS: Final = 0.15
QUIET_SECONDS: Final = 0.025
"""The time that other processes may use in one reading: two ticks of 10 ms, the kernel's resolution."""
PATIENCE_SECONDS: Final = 10.0
"""The limit for waits and repetitions of one measurement."""
REDONE_AT_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class MeasuredServer:
    name: str
    pids: tuple[int, ...]
    """The processes whose CPU time is the server's."""
    measure: Callable[[Callable[[], None]], Sample]
    """Its argument is a function that it calls at the first counted request. CPU time is counted from then on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    rounds: dict[str, tuple[Round, ...]]
    """The same number for each server."""
    redone: int


class Rounds:
    def __init__(
        self,
        cores: Cores,
        *,
        helper_pids: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """*helper_pids* are the other processes of the measurement: emulators, and this one."""
        self._cores = cores
        self._helper_pids = helper_pids
        self._clock = clock
        self._sleep = sleep

    def alternate(
        self, measured_servers: Sequence[MeasuredServer], rounds: int, deadline: float, *, quick: bool
    ) -> Outcome:
        """Run *rounds* rounds, or those that end before *deadline* (on the clock), but LEAST_ROUNDS unless *quick*.

        After the deadline there are no waits and no repetitions: disturbed measurements are dirty then. Raises
        ValueError for too few rounds, RuntimeError for a server without responses.
        """
        least = 1 if quick else LEAST_ROUNDS
        if rounds < least:
            raise ValueError(f"a full run takes at least {LEAST_ROUNDS} rounds, not {rounds}: fewer are for --quick")
        measured_rounds: dict[str, list[Round]] = {server.name: [] for server in measured_servers}
        redone = 0
        longest = 0.0
        for number in range(rounds):
            began = self._clock()
            if number >= least and began + longest > deadline:
                break
            for server in measured_servers if number % 2 == 0 else reversed(measured_servers):
                measured, times = self._measured(server, deadline)
                measured_rounds[server.name].append(measured)
                redone += times
            longest = max(longest, self._clock() - began)
        return Outcome({name: tuple(server_rounds) for name, server_rounds in measured_rounds.items()}, redone)

    def _measured(self, server: MeasuredServer, deadline: float) -> tuple[Round, int]:
        """Return the first undisturbed measurement, or the last one, and the number of discarded ones."""
        until = min(deadline, self._clock() + PATIENCE_SECONDS)
        redone = 0
        while True:
            quiet = self._quiet(server, until)
            result = self._once(server, quiet=quiet)
            if not result.dirty or not quiet or redone == REDONE_AT_MOST or self._clock() >= until:
                return result, redone
            redone += 1

    def _quiet(self, server: MeasuredServer, until: float) -> bool:
        """Return whether other processes became idle before *until*. Reads at least once."""
        while True:
            before = self._others(server)
            self._sleep(LOOK_SECONDS)
            if self._others(server) - before <= QUIET_SECONDS:
                return True
            if self._clock() >= until:
                return False

    def _others(self, server: MeasuredServer) -> float:
        busy = sum(self._cores.busy(core) for core in (0, 1))
        return busy - self._cores.used([*server.pids, *self._helper_pids])

    def _once(self, server: MeasuredServer, *, quiet: bool) -> Round:
        taken: list[tuple[float, float, float, tuple[float, float]]] = []

        def begin() -> None:
            readings = self._cores.used(server.pids), self._cores.split(server.pids)
            taken.append((self._clock(), self._others(server), *readings))

        sample = server.measure(begin)
        ((began, others, used, (user, system)),) = taken
        used_after, (user_after, system_after) = self._cores.used(server.pids), self._cores.split(server.pids)
        others_after, seconds = self._others(server), self._clock() - began
        if not sample.requests:
            raise RuntimeError(f"{server.name} answered no request ({dict(sample.errors)}): read its log")
        foreign = others_after - others - sample.generator_seconds
        return Round(
            sample,
            cpu_us=(used_after - used) * 1e6 / sample.requests,
            user_us=(user_after - user) * 1e6 / sample.requests,
            system_us=(system_after - system) * 1e6 / sample.requests,
            dirty=not quiet or foreign > OTHERS * seconds,
        )
