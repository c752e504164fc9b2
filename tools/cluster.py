"""A real control plane with one empty node beside an emulated Azure, to install the chart into: `make cluster`.

Until Ctrl-C. `build/cluster` has the kubeconfig, the values that the chart is to be told, and the programs, in `bin`.
"""

import os
import shutil
import sys
from pathlib import Path

from podidctl.cli import main
from tests.testplane import up

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "cluster"


def offer_programs(folder: Path) -> None:
    """Make *folder* one that a shell's PATH may have: kubectl, both helms, and ours."""
    folder.mkdir(parents=True)
    ours = [Path(sys.executable).with_name(name) for name in ("podidctl", "kubectl-podidentity")]
    for program in (*map(up.tool, ("kubectl", "helm", "helm3")), *ours):
        (folder / program.name).symlink_to(program)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("make cluster: the node is a network namespace, which needs root")
    shutil.rmtree(FOLDER, ignore_errors=True)
    offer_programs(FOLDER / "bin")
    with up.Plane(FOLDER / "plane", scheduler=True) as plane:
        kubeconfig = FOLDER / "kubeconfig"
        kubeconfig.symlink_to(plane.kubeconfig)
        print(f"In another terminal: export PATH={FOLDER / 'bin'}:$PATH", flush=True)  # noqa: T201
        code = main(["sandbox", "up", f"--kubeconfig={kubeconfig}", f"--chart-values={FOLDER / 'values.yaml'}"])
    sys.exit(code)
