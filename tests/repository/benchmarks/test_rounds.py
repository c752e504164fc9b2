"""Measuring rounds on a fake machine: its clock, its cores, and the other programs on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from typing_extensions import override

from benchmarks.machine import Cores
from benchmarks.paired import LEAST_ROUNDS, Sample
from benchmarks.rounds import LOOK_SECONDS, PATIENCE_SECONDS, REDONE_AT_MOST, MeasuredServer, Outcome, Rounds

SERVER, GENERATOR, EMULATORS = 11, 12, 13
SECOND = 1.0
"""How long a measurement takes."""
NEVER = 1e9


@dataclass
class Machine(Cores):
    """Two cores. *others* is the share of a core that other programs use from a given time on."""

    others: Callable[[float], float] = lambda _: 0.0
    requests: int = 100_000
    now: float = 0.0
    spent: dict[int, float] = field(default_factory=lambda: {SERVER: 0.0, GENERATOR: 0.0, EMULATORS: 0.0})
    strangers: float = 0.0
    measured: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.strangers += self.others(self.now) * seconds
        self.now += seconds

    @override
    def busy(self, core: int) -> float:
        if core == 0:
            return self.spent[SERVER]
        return self.spent[GENERATOR] + self.spent[EMULATORS] + self.strangers

    @override
    def used(self, pids: Sequence[int]) -> float:
        return sum(self.spent[pid] for pid in pids)

    @override
    def split(self, pids: Sequence[int]) -> tuple[float, float]:
        return self.used(pids) * 0.25, self.used(pids) * 0.75

    def measured_server(self, name: str) -> MeasuredServer:
        def measure(begin: Callable[[], None]) -> Sample:
            self.measured.append(name)
            self.spent[SERVER] += 0.1  # the warm-up, which does not count
            self.sleep(0.1)
            begin()
            self.sleep(SECOND)
            self.spent[SERVER] += 0.9
            self.spent[GENERATOR] += 0.7
            self.spent[EMULATORS] += 0.2
            return Sample(self.requests, self.requests / SECOND, 200, 400, 800, {}, {}, generator_seconds=0.7)

        return MeasuredServer(name, (SERVER,), measure)

    def run(self, *names: str, rounds: int = LEAST_ROUNDS, deadline: float = NEVER, quick: bool = False) -> Outcome:
        able = Rounds(self, helper_pids=(EMULATORS,), clock=self.clock, sleep=self.sleep)
        return able.alternate([self.measured_server(name) for name in names], rounds, deadline, quick=quick)


def dirty(outcome: Outcome) -> list[bool]:
    return [measured.dirty for rounds in outcome.rounds.values() for measured in rounds]


def test_rounds_run_forwards_and_backwards_alternately() -> None:
    machine = Machine()
    outcome = machine.run("a", "b", "c", rounds=3, quick=True)
    assert machine.measured == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert {name: len(rounds) for name, rounds in outcome.rounds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_servers_cpu_time_is_computed_per_request() -> None:
    (measured,) = Machine().run("a", rounds=1, quick=True).rounds["a"]
    assert not measured.dirty
    assert measured.cpu_us == pytest.approx(9.0), "the generator's and the emulators' time is not the server's"
    assert (measured.user_us, measured.system_us) == pytest.approx((2.25, 6.75))
    assert measured.sample.rps == 100_000


@pytest.mark.parametrize(("share", "redone"), [(0.0, 0), (0.07, 0), (0.09, REDONE_AT_MOST)])
def test_other_processes_may_use_eight_percent_of_a_core(share: float, redone: int) -> None:
    outcome = Machine(others=lambda _: share).run("a", rounds=1, quick=True)
    assert outcome.redone == redone
    assert dirty(outcome) == [bool(redone)]


def test_a_disturbed_measurement_is_repeated_when_the_machine_is_quiet() -> None:
    machine = Machine(others=lambda now: 0.5 if now < 3 else 0.0)
    outcome = machine.run("a", rounds=1, quick=True)
    assert (machine.measured, outcome.redone) == (["a"], 0), "the machine was not quiet, and that was waited for"

    machine = Machine(others=lambda now: 0.09 if now < 1 else 0.0)
    outcome = machine.run("a", "b", rounds=1, quick=True)
    assert machine.measured == ["a", "a", "b"], "too little to be seen in a look, too much for a measurement"
    assert outcome.redone == 1
    assert dirty(outcome) == [False, False]


def test_a_machine_that_is_never_quiet_is_measured_and_marked_as_disturbed() -> None:
    machine = Machine(others=lambda _: 0.5)
    outcome = machine.run("a", "b", rounds=1, quick=True)
    assert dirty(outcome) == [True, True]
    assert machine.measured == ["a", "b"]
    assert 2 * PATIENCE_SECONDS < machine.now < 2 * (PATIENCE_SECONDS + SECOND + 2 * LOOK_SECONDS), "bounded"
    late = Machine(others=lambda now: 0.5 if now < PATIENCE_SECONDS else 0.0)
    assert dirty(late.run("a", rounds=1, quick=True)) == [True], "it was not seen quiet before"


def test_only_known_emulators_are_no_disturbance() -> None:
    machine = Machine()
    unaware = Rounds(machine, clock=machine.clock, sleep=machine.sleep)
    assert dirty(unaware.alternate([machine.measured_server("a")], 1, NEVER, quick=True)) == [True]


def test_a_full_run_makes_fifteen_rounds_and_no_more_after_the_deadline_and_a_quick_one_may_make_fewer() -> None:
    with pytest.raises(ValueError, match="at least 15 rounds, not 14: fewer are for --quick"):
        Machine().run("a", rounds=14)
    assert len(Machine().run("a", rounds=14, quick=True).rounds["a"]) == 14
    machine = Machine(others=lambda _: 0.5)
    outcome = machine.run("a", rounds=40, deadline=5.0)
    assert len(outcome.rounds["a"]) == LEAST_ROUNDS
    assert dirty(outcome) == [True] * LEAST_ROUNDS
    assert machine.now < 5.0 + LEAST_ROUNDS * (SECOND + 2 * LOOK_SECONDS), "nothing is waited for any more"


def test_a_server_that_never_answers_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="nmi answered no request"):
        Machine(requests=0).run("nmi", rounds=1, quick=True)
