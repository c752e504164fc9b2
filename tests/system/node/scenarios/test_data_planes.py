"""NMI on each data plane: mode of kube-proxy, kind of CNI plugin, redirect backend and target.

Each cell of the compatibility matrix is an installation of the chart, a series of events under continuous requests of
pods, and an uninstallation. One test bed serves all cells of its kind of nodes. `make e2e-node` runs the cells of
`is_usual`, and `DATA_PLANES=all` all of them. The results are the input of `python -m tests.system.node.matrix`.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pytest

from podidentity_sandbox.azure import DEMO_IDENTITY
from tests.system.node import client, matrix
from tests.system.node.bed import NAMESPACE, NMI, Bed, merged
from tests.system.node.data_planes import (
    CHECKS,
    Cell,
    all_cells,
    bed_options,
    chart_values,
    is_usual,
    needs_route_localnet,
)
from tests.system.node.evaluation import Result
from tests.system.node.node_state import NodeState, read_node_state
from tests.system.node.options import Options
from tests.system.node.podidctl_commands import verified
from tests.system.node.programs import BUILD
from tests.system.node.scenario import Scenarios

ALL: Final = os.environ.get("DATA_PLANES", "") == "all"
STATE_URL: Final = "http://127.0.0.1:8085/debug/state"
FLUSHES: Final = ("iptables -t nat -F", "iptables -t nat -X", "nft flush ruleset")
"""Commands by which other programs remove the rules of a node."""
STAYS_WITH_ROUTE_LOCALNET: Final = re.compile(r"route_localnet = 1$|127\.0\.0\.0/8")
"""What remains on the node after `nmi.routeLocalnet: set`, as docs/operations.md states: the setting and its guard."""


@dataclass
class DataPlane:
    """A test bed with the chart's values of one cell, and the checks that have run."""

    cell: Cell
    scenarios: Scenarios
    before: NodeState
    """The state of the node before the installation."""
    route_localnet: str
    checks: dict[str, bool] = field(default_factory=dict)
    selected_backend: str = ""
    selected_target: str = ""
    installed: bool = False

    @property
    def bed(self) -> Bed:
        return self.scenarios.bed

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Record that the check *name* of CHECKS has passed, unless the block raises an exception or one before did."""
        passed_before = self.checks.get(name, True)
        self.checks[name] = False
        yield
        self.checks[name] = passed_before

    def install(self) -> None:
        """Install the chart, wait for the first tokens, and ask NMI for backend and target."""
        self.installed = True
        self.bed.install(chart_values(self.cell))
        self.scenarios.create_probers()
        self.selected_backend, self.selected_target = self.selection()

    def selection(self) -> tuple[str, str]:
        """Return backend and target that NMI reports. Raise BedError."""
        state = json.loads(self.bed.nodes[0].run("curl", "--silent", "--fail", STATE_URL))["plumbing"]
        return str(state["backend"]), str(state["target"])

    def assert_equal_selection(self) -> None:
        """Fail if the present NMI reports another backend or target than the first."""
        assert self.selection() == (self.selected_backend, self.selected_target)

    def uninstall(self) -> None:
        self.bed.uninstall()
        self.installed = False

    def result(self) -> matrix.CellResult:
        """Return the result for the matrix, with the target that NMI selected."""
        target = self.selected_target if self.cell.target == "auto" else self.cell.target
        cell = msgspec.convert({**msgspec.to_builtins(self.cell), "target": target}, Cell)
        return matrix.CellResult(
            cell=cell, selected=self.selected_backend, checks=self.checks, **matrix.circumstances()
        )


class Beds:
    """The current test bed with its prober pods. The next kind of nodes replaces it."""

    def __init__(self) -> None:
        self._current: Scenarios | None = None
        self._removal = contextlib.ExitStack()

    def get(self, options: Options) -> Scenarios:
        """Return a bed with these options, which has no chart, or the current one with them. Raise BedError."""
        if self._current is None or self._current.bed.options != options:
            self.remove()
            self._current = Scenarios(self._removal.enter_context(Bed(options)))
        return self._current

    def remove(self) -> None:
        """Remove the current bed, for example after a failure that leaves it in an unknown state."""
        self._current = None
        self._removal.close()


@pytest.fixture(scope="module")
def beds() -> Iterator[Beds]:
    made = Beds()
    yield made
    made.remove()


def cell_parameters() -> list[Any]:
    """Return the cells to run, as parameters of a fixture."""
    return [pytest.param(cell, id=cell.name, marks=pytest.mark.long) for cell in all_cells() if ALL or is_usual(cell)]


@pytest.fixture(scope="module", params=cell_parameters())
def data_plane(beds: Beds, request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    """A test bed with the chart installed for one cell. The result is saved if no check is missing, or one failed."""
    cell: Cell = request.param
    scenarios = beds.get(bed_options(cell.proxy, cell.cni))
    node = scenarios.bed.nodes[0]
    setting = "net.ipv4.conf.all.route_localnet"
    made = DataPlane(cell, scenarios, read_node_state(node), node.run("sysctl", "--values", setting).strip())
    clean = False
    try:
        with made.check("token"):
            made.install()
        yield made
        if made.installed:
            made.uninstall()
        node.run("sysctl", "--write", f"{setting}={made.route_localnet}")
        clean = all(made.checks.values())
    finally:
        if not clean:
            beds.remove()  # The next cell needs a node in a known state.
        if set(made.checks) == set(CHECKS) or not all(made.checks.values()):
            result = made.result()
            matrix.add(BUILD, {result.cell: result}, {})


def assert_closed(result: Result, *, seconds: float) -> None:
    """Fail if a request leaked, a token was another identity's, or the interruption was longer than *seconds*."""
    assert (result.leaked, result.wrong) == (0, 0), result
    assert result.interruption_seconds <= seconds, result


def test_a_pod_gets_a_token(data_plane: DataPlane) -> None:
    with data_plane.check("token"):
        response = client.token(data_plane.bed, "with-0")
        assert (response.status, response.identity) == (200, DEMO_IDENTITY), response


def test_nmi_uses_the_backend_and_the_target_of_the_values(data_plane: DataPlane) -> None:
    with data_plane.check("token"):
        assert data_plane.cell.backend in {"auto", data_plane.selected_backend}
        assert data_plane.cell.target in {"auto", data_plane.selected_target}


def test_verify_proves_that_nmi_answers(data_plane: DataPlane) -> None:
    with data_plane.check("verified"):
        code, answered_by = verified(data_plane.bed)
        assert (code, set(answered_by.values())) == (0, {"nmi"})


def kill(data_plane: DataPlane) -> None:
    data_plane.bed.nodes[0].run("kill", "-KILL", str(data_plane.bed.nmi_pid()))


def restart(data_plane: DataPlane) -> None:
    data_plane.bed.kubectl("rollout", "restart", NMI, f"--namespace={NAMESPACE}")
    data_plane.bed.wait_for_nmi()


def upgrade(data_plane: DataPlane) -> None:
    values = merged(chart_values(data_plane.cell), {"nmi": {"logVerbosity": 1}})
    data_plane.bed.install(values, command="upgrade")


@pytest.mark.parametrize(
    ("name", "act", "seconds"), [("killed", kill, 20), ("restarted", restart, 1), ("upgraded", upgrade, 1)]
)
def test_no_request_reaches_imds_in_an_event_and_the_selection_stays(
    data_plane: DataPlane, name: str, act: Callable[[DataPlane], None], seconds: float
) -> None:
    with data_plane.check(name):
        assert_closed(data_plane.scenarios.measure(name, lambda: act(data_plane)), seconds=seconds)
        data_plane.assert_equal_selection()


def test_no_request_reaches_imds_when_the_tables_are_flushed(data_plane: DataPlane) -> None:
    with data_plane.check("flushed"):
        for command in FLUSHES:
            # `iptables -X` fails if a chain is in use, which is as good as a flush without effect.
            flush = functools.partial(data_plane.bed.nodes[0].done, *command.split())
            try:
                assert_closed(data_plane.scenarios.measure(command, flush), seconds=2)
            finally:
                data_plane.bed.nodes[0].restart_kube_proxy()


def test_nothing_remains_on_the_node_after_the_uninstallation(data_plane: DataPlane) -> None:
    with data_plane.check("uninstalled"):
        data_plane.uninstall()
        left = read_node_state(data_plane.bed.nodes[0]).left_since(data_plane.before)
        if needs_route_localnet(data_plane.cell.proxy, data_plane.cell.target):
            left = [each for each in left if not STAYS_WITH_ROUTE_LOCALNET.search(each)]
        assert left == []
