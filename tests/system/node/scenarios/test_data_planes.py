"""NMI on each data plane: mode of kube-proxy, kind of CNI plugin, redirect backend and target.

Each cell of the compatibility matrix is an installation of the chart, a series of events under continuous requests of
pods, and an uninstallation. One test bed serves all cells of its kind of nodes. `make e2e-node` runs the usual cells,
and `DATA_PLANES=all` all of them. The results are the input of `python -m tests.system.node.matrix`.
"""

import contextlib
import functools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import pytest

from podidentity_sandbox.azure import DEMO_IDENTITY
from tests.system.node import client
from tests.system.node.bed import Bed, merged
from tests.system.node.data_planes import CELLS, Cell, bed_options
from tests.system.node.evaluation import Result
from tests.system.node.matrix import CellResult, Results, circumstances
from tests.system.node.node_state import read_node_state
from tests.system.node.options import Options
from tests.system.node.processes import wait_for
from tests.system.node.programs import BUILD
from tests.system.node.scenario import RECOVERY_SECONDS, Scenarios

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

ALL: Final = os.environ.get("DATA_PLANES", "") == "all"
FLUSHES: Final = ("iptables -t nat -F", "iptables -t nat -X", "nft flush ruleset")
"""Commands by which other programs remove the rules of a node."""
SETTING: Final = "net.ipv4.conf.all.route_localnet"
STAYS_WITH_ROUTE_LOCALNET: Final = re.compile(r"route_localnet = 1$|127\.0\.0\.0/8")
"""What remains on the node after `nmi.routeLocalnet: set`, as docs/operations.md states: the setting and its guard."""


class Beds(contextlib.ExitStack):
    """The current test bed with its prober pods. The next kind of nodes replaces it."""

    current: Scenarios | None = None

    def get(self, options: Options) -> Scenarios:
        """Return a bed with these options, which has no chart, or the current one with them. Raise BedError."""
        if self.current is None or self.current.bed.options != options:
            self.current = None
            self.close()
            self.current = Scenarios(self.enter_context(Bed(options)))
        return self.current


@pytest.fixture(scope="module")
def beds() -> Iterator[Beds]:
    with Beds() as made:
        yield made


def assert_closed(result: Result, *, seconds: float) -> None:
    """Fail if a request leaked, a token was another identity's, or the interruption was longer than *seconds*."""
    assert (result.leaked, result.wrong) == (0, 0), result
    assert result.interruption_seconds <= seconds, result


@pytest.fixture(scope="module", params=[pytest.param(cell, id=cell.name) for cell in CELLS if ALL or cell.is_usual])
def cell(beds: Beds, request: pytest.FixtureRequest) -> Cell:
    """One cell, for which there is a bed. A bed that a test started would be one that it leaves behind."""
    made: Cell = request.param
    beds.get(bed_options(made.proxy, made.cni))
    return made


def test_no_request_reaches_imds_and_nothing_remains_on_the_node(beds: Beds, cell: Cell) -> None:
    scenarios = beds.get(bed_options(cell.proxy, cell.cni))
    bed = scenarios.bed
    node = bed.nodes[0]
    checks: dict[str, bool] = {}
    backend, target = "", cell.target

    @contextmanager
    def check(name: str) -> Iterator[None]:
        """Record whether the block passes the check *name* of CHECKS."""
        checks[name] = False
        yield
        checks[name] = True

    try:
        before, route_localnet = read_node_state(node), node.run("sysctl", "--values", SETTING).strip()
        with check("token"):
            bed.install(cell.chart_values)
            scenarios.create_probers()
            assert client.token(bed, "with-0").token_of == DEMO_IDENTITY
            backend, selected = client.selection(node)
            assert cell.backend in {"auto", backend}
            assert cell.target in {"auto", selected}
            target = "node" if selected == "node" else "loopback"
            assert any("aad-" in line for line in read_node_state(node) - before)
        with check("verified"):
            assert client.verified(bed) == (0, {node.name: "nmi"})
        upgrade = functools.partial(
            bed.install, merged(cell.chart_values, {"nmi": {"logVerbosity": 1}}), command="upgrade"
        )
        events = (("killed", bed.kill_nmi, 20), ("restarted", bed.roll_out_nmi, 1), ("upgraded", upgrade, 1))
        for name, act, seconds in events:
            with check(name):
                assert_closed(scenarios.measure(name, act), seconds=seconds)
                assert client.selection(node) == (backend, selected)
        with check("flushed"):
            for command in FLUSHES:
                # `iptables -X` fails if a chain is in use, which is as good as a flush without effect.
                flush = functools.partial(node.done, *command.split())
                assert_closed(scenarios.measure(command, flush), seconds=2)
                node.restart_kube_proxy()
        with check("uninstalled"):
            begin = time.time()
            bed.uninstall()
            left = sorted(read_node_state(node) - before)
            if cell.needs_route_localnet:
                left = [line for line in left if not STAYS_WITH_ROUTE_LOCALNET.search(line)]
            assert left == []
            # The requests that no check may count are those that this counts.
            wait_for(lambda: bed.azure.leaked(begin), RECOVERY_SECONDS, "no request reached IMDS without NMI")
        node.run("sysctl", "--write", f"{SETTING}={route_localnet}")
    except BaseException:
        beds.current = None  # the next cell needs a node in a known state
        raise
    finally:
        if checks:
            results = Results(BUILD)
            tested = msgspec.structs.replace(cell, target=target)
            results.cells[tested] = CellResult(cell=tested, selected=backend, checks=checks, **circumstances())
            results.save()
