"""Several MICs while pods change and leaders stop, are killed or lose the API server: only the leader writes.

The leader election is the real one. Excluded: a leader that is suspended (`test_a_suspended_leader`), which needs
processes of their own.
"""

import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import pytest
from typing_extensions import override

from podidentity.kube.errors import LeadershipLost
from podidentity_sandbox.kubeapi.history import Change
from tests.unit.mic.history.controller import MicProcess
from tests.unit.mic.history.faults import Call, Fault, Moment
from tests.unit.mic.history.simulated_cluster import NODES, RESOURCES, SimulatedCluster, spec_of

LEASES: Final = "leases.coordination.k8s.io"
REPLICAS: Final = 3
PODS_MOST: Final = 20
HANDOVER_SECONDS: Final = 2.0
"""A replica looks for a released lease every second."""


class Replicas(SimulatedCluster):
    """Replicas, and the writes of those that do not hold the lease."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(operation_seconds=draw.choice([0.5, 2.0, 6.0]))
        self.draw = draw
        self.running: dict[str, MicProcess] = {}
        self.holders: list[tuple[float, str]] = []
        """The time and the new holder of each change of the lease; an empty holder released it."""
        self.foreign_writes: list[str] = []
        self.pods = 0
        self.store.subscribe(LEASES, self._held)
        self.gate.before = self._check
        for name in RESOURCES:
            self.put_identity("default", name, spec_of(name))
            self.put_binding("default", name, name, name)
        for _ in range(REPLICAS):
            self.start()

    @property
    def holder(self) -> str:
        return self.holders[-1][1] if self.holders else ""

    def start(self) -> None:
        mic = self.start_mic(elects=True)
        self.running[mic.name] = mic

    @override
    def alive(self, name: str) -> bool:
        return name in self.running

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Change pods while time passes until *condition* holds."""
        for _ in range(1000):
            if condition():
                return
            self.change_pods()
            self.pass_time(0.25)
        raise AssertionError(self.with_history(f"not in time: {what}"))

    def change_pods(self) -> None:
        self.pods += 1
        node, label = self.draw.choice([*NODES]), self.draw.choice(RESOURCES)
        self.put_pod("team", f"p{self.pods % PODS_MOST}", node, label)
        if self.draw.random() < 0.5:
            self.remove_pod("team", f"p{self.draw.randrange(PODS_MOST)}")

    def end(self, how: str) -> None:
        """End the leader, and wait until another one leads."""
        name = self.holder
        self.say(f"{how} {name}")
        mic = self.running[name]
        match how:
            case "stop":
                self._ended.append(mic.stop())
                self.until(lambda: self.holder != name, "a release")
            case "kill":
                del self.running[name]
                self._ended.append(mic.stop())
            case _:
                self.gate.faults.append(Fault("api", lost=Moment.BEFORE, times=10_000, mic=name))
        self.until(lambda: self.holder not in {"", name}, f"another leader after {how}")
        if how == "cut off":
            failure = mic.failed()
            assert isinstance(failure, ExceptionGroup), "the former leader has ended"
            assert failure.subgroup(LeadershipLost) is not None
            self.gate.faults.clear()
        self.running.pop(name, None)
        self.start()

    def handovers(self) -> list[float]:
        """Return the seconds from each release to the next holder."""
        pairs = itertools.pairwise(self.holders)
        return [after - before for (before, released), (after, _) in pairs if not released]

    def check_updates(self) -> None:
        """Check that each update of Azure changed something, and that none met an operation of an earlier leader."""
        on: defaultdict[str, set[str]] = defaultdict(set)
        for call in self.arm.writes():
            assert call.status == 200, "a new leader waits for the operation that an earlier one started"
            requested = call.body["identity"]["userAssignedIdentities"]
            adds = {name for name, value in requested.items() if value is not None}
            removes = requested.keys() - adds
            attached = on[call.path.lower()]
            assert adds | removes
            assert not adds & attached, "it was there already"
            assert removes <= attached, "it was not there"
            attached -= removes
            attached |= adds

    def _held(self, change: Change) -> None:
        holder = str(change.item.document["spec"].get("holderIdentity") or "")
        if holder != self.holder:
            self.say(f"the holder is {holder or 'no replica'}")
            self.holders.append((self.loop.time(), holder))

    def _check(self, call: Call) -> None:
        if call.writes and "/leases" not in call.path and call.mic != self.holder:
            self.foreign_writes.append(f"{call.mic} under {self.holder}: {call.method} {call.path}")


@pytest.mark.parametrize("seed", range(4))
def test_exactly_one_leader_writes_and_nothing_is_lost_however_a_leadership_ends(seed: int) -> None:
    draw = random.Random(seed)
    with Replicas(draw) as replicas:
        replicas.until(lambda: replicas.holder != "", "a first leader")
        ends = ["stop", "kill", "cut off", "stop"]
        draw.shuffle(ends)
        for how in ends:
            writes = len(replicas.arm.writes()) + draw.randrange(1, 6)
            replicas.until(lambda writes=writes: len(replicas.arm.writes()) >= writes, "some work")  # type: ignore[misc]  # bound at once
            replicas.end(how)
        replicas.converge()
        assert replicas.foreign_writes == []
        replicas.check_updates()
        assert max(replicas.handovers()) < HANDOVER_SECONDS
        assert len({holder for _, holder in replicas.holders if holder}) == 1 + len(ends)
