"""A real control plane with one empty node and an emulated Azure, to install the chart into: `make cluster`.

It runs until Ctrl-C. `build/cluster` contains the kubeconfig, the chart's values, and the programs in `bin`.
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
    """Create *folder* for a shell's PATH, with links to kubectl, both versions of helm, and this project's programs."""
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
