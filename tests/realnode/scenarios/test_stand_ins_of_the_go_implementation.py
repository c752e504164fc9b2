"""The images and the chart of `REFERENCE_NMI` and `REFERENCE_MIC` on a node, with stand-ins for both binaries.

The stand-ins serve no token and assign no identity: they prove that the images are built, imported and started with the
chart's flags, and that NMI and MIC take over from programs that use the same ports and end without a handover.
"""

import time
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.go_implementation_chart import MIC_FLAGS, NMI_FLAGS
from tests.realnode.bed import NAMESPACE, RELEASE, Bed
from tests.realnode.go_programs import GoPrograms
from tests.realnode.options import Options
from tests.realnode.processes import wait_for
from tests.realnode.programs import compiled
from tests.realnode.scenario import Scenarios
from tests.realnode.scenarios.go_installation import WHERE, has_chain, install_programs

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

RECOVERY_SECONDS: Final = 60.0


def flags(bed: Bed, workload: str) -> list[str]:
    """Return the arguments that the stand-in in a pod of *workload* has printed."""
    lines = bed.kubectl("logs", workload, f"--namespace={NAMESPACE}").splitlines()
    return [line.removeprefix("argument ") for line in lines if line.startswith("argument ")]


def test_stand_ins_run_with_the_charts_flags_and_are_replaced_and_restored(tmp_path: Path) -> None:
    stand_in = compiled("go_program_stand_in")
    with Bed(Options()) as bed:
        bed.commands = bed.plane.commands("helm3")
        scenarios = Scenarios(bed)
        install_programs(bed, tmp_path, GoPrograms(nmi=stand_in, mic=stand_in))
        nmi = [each.replace("$(NODE_NAME)", bed.nodes[0].name) for each in NMI_FLAGS]
        assert flags(bed, f"daemonset/{RELEASE}-nmi") == nmi
        assert flags(bed, f"deployment/{RELEASE}-mic") == list(MIC_FLAGS)
        wait_for(lambda: has_chain(bed), RECOVERY_SECONDS, "the image of NMI has no iptables that works")

        begin = time.time()
        scenarios.apply_probers()
        bed.kubectl("wait", "--for=condition=Ready", *(f"pod/{each}" for each in scenarios.expected), "--timeout=60s")
        asked = time.time()
        bed.install(command="upgrade")
        scenarios.wait_for_recovery(time.time(), RECOVERY_SECONDS)
        result = scenarios.evaluate("helm upgrade from stand-ins of the chart 4.1.18", begin)
        assert (result.leaked, result.wrong) == (0, 0), result
        assert not has_chain(bed)
        print(f"{result.scenario}: {time.time() - asked:.0f} s; {dict(result.outcomes)}")  # noqa: T201 - shown by pytest -rP

        # docs/migration.md, "Back to the Go implementation".
        bed.install({"nmi": {"failClosed": False}}, command="upgrade")
        bed.commands.helm("rollback", RELEASE, "1", *WHERE)
        wait_for(lambda: has_chain(bed) and not bed.nmi_pids(), RECOVERY_SECONDS, "the former programs do not run")
        assert flags(bed, f"daemonset/{RELEASE}-nmi") == nmi
