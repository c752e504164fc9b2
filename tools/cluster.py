"""A control plane with one node and an emulated Azure, to install the chart into: `make cluster`.

The node is a real one of tests/system/node where the machine permits it, else one of the sandbox, whose kubelet starts
the programs of this checkout. It runs until Ctrl-C. `build/cluster` contains the kubeconfig, the chart's values, and
the programs in `bin`.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from podidctl.cli import main as podidctl
from podidentity.version import VERSION
from podidentity_sandbox.settings import CHART_VALUES
from tests.support.testplane import up
from tests.system.node import machine
from tests.system.node.bed import Bed
from tests.system.node.manifests import REPOSITORY
from tests.system.node.node import OUTSIDE
from tests.system.node.options import Options

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "cluster"
OURS = [Path(sys.executable).with_name(name) for name in ("podidctl", "kubectl-podidentity")]
DEMO_IMAGE = f"localhost/aad-pod-identity/demo:{VERSION}"
"""The image of deploy/demo, by the name that the kubelet uses."""
PROGRAM = """\
#!/bin/sh
[ -e {kubeconfig} ] || {{ echo "$0: the cluster has ended; start it again with make cluster" >&2; exit 1; }}
{commands}"""
PODIDCTL = """\
# podidctl in the network of the control plane. `sandbox exec POD -- COMMAND` runs a command of the machine in the
# network of a pod of the real node.
if [ "${{1:-}} ${{2:-}}" != "sandbox exec" ]; then
    exec {podidctl} "$@"
fi
pod=$3
shift 4
container=$({ctr} --namespace=k8s.io containers list --quiet "labels.\\"io.kubernetes.pod.name\\"==$pod" | head -1)
process=$({ctr} --namespace=k8s.io tasks list | awk -v name="$container" '$1 == name {{ print $2 }}')
exec {node} nsenter --target "$process" --net -- "$@"
"""


def offer_programs(folder: Path) -> None:
    """Create *folder* for a shell's PATH, with links to kubectl, both versions of helm, and this project's programs."""
    folder.mkdir(parents=True)
    for program in (*map(up.tool, ("kubectl", "helm", "helm3")), *OURS):
        (folder / program.name).symlink_to(program)


def run_sandbox() -> int:
    """Run the control plane and a node of the sandbox until Ctrl-C. Return the exit code."""
    offer_programs(FOLDER / "bin")
    with up.Plane(FOLDER / "plane", scheduler=True) as plane:
        kubeconfig = FOLDER / "kubeconfig"
        kubeconfig.symlink_to(plane.kubeconfig)
        print(f"In another terminal: export PATH={FOLDER / 'bin'}:$PATH", flush=True)  # noqa: T201
        return podidctl(["sandbox", "up", f"--kubeconfig={kubeconfig}", f"--chart-values={FOLDER / 'values.yaml'}"])


def run_real_node(options: Options) -> int:
    """Run the control plane and real nodes until Ctrl-C. Return the exit code."""
    install_packages("node")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with Bed(options) as bed:
            FOLDER.mkdir(parents=True, exist_ok=True)
            write_real_node_files(bed)
            print(guide(bed), flush=True)  # noqa: T201
            signal.pause()
    except KeyboardInterrupt:
        return 0
    return 0


def install_packages(group: str) -> None:
    """Install a group of system packages. Raise CalledProcessError."""
    subprocess.run([str(ROOT / "tools" / "system-packages"), group], cwd=ROOT, check=True)


def write_real_node_files(bed: Bed) -> None:
    """Write kubeconfig, values and programs of *bed*, and name the demo's image as deploy/demo does."""
    programs = FOLDER / "bin"
    write_commands(bed, programs)
    kubeconfig = FOLDER / "kubeconfig"
    shutil.copy2(bed.plane.kubeconfig, kubeconfig)
    (FOLDER / "values.yaml").write_text(yaml.safe_dump({**bed.values(), "test": CHART_VALUES["test"]}))
    for bed_node in bed.nodes:
        tag = (bed_node.programs.ctr, "--namespace=k8s.io", "images", "tag")
        bed_node.run(*tag, f"{REPOSITORY}/demo:{VERSION}", DEMO_IMAGE)
    node = bed.nodes[0]
    for program in OURS:
        outside = bed.namespaces.command(OUTSIDE, ["env", f"KUBECONFIG={kubeconfig}", str(program)])
        text = PODIDCTL.format(
            podidctl=shlex.join(outside),
            ctr=shlex.join(node.command([node.programs.ctr])),
            node=shlex.join(node.command(())),
        )
        write_program(bed, programs / program.name, text)


def write_commands(bed: Bed, folder: Path) -> None:
    """Write kubectl, helm and a shell on each node into *folder*, as commands for *bed*."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kubeconfig = f"KUBECONFIG={bed.plane.kubeconfig}"
    commands = {
        name: bed.namespaces.command(OUTSIDE, ["env", kubeconfig, str(up.tool(name))]) for name in ("kubectl", "helm")
    }
    commands |= {f"on-{node.name}": node.command(()) for node in bed.nodes}
    for name, command in commands.items():
        write_program(bed, folder / name, f'exec {shlex.join(command)} "$@"\n')


def write_program(bed: Bed, path: Path, commands: str) -> None:
    """Write *commands* of a shell as a program that says so when *bed* has ended."""
    path.write_text(PROGRAM.format(kubeconfig=shlex.quote(str(bed.plane.kubeconfig)), commands=commands))
    path.chmod(0o755)


def guide(bed: Bed) -> str:
    """Return the next steps."""
    nodes = ", ".join(node.name for node in bed.nodes)
    return f"""\
The cluster is up, with the real node {nodes}. Ctrl-C removes it. In another terminal:
  export PATH={FOLDER / "bin"}:$PATH KUBECONFIG={FOLDER / "kubeconfig"}
  on-{bed.nodes[0].name} iptables-save -t nat
The chart's values: {FOLDER / "values.yaml"}. Logs: {bed.folder}/node-*/*.log"""


def main(arguments: list[str]) -> int:
    """Run a cluster with the kind of node that the arguments select. Return the exit code."""
    parser = argparse.ArgumentParser(prog="make cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--node", choices=("auto", "real", "sandbox"), default="auto", help="kind of the node")
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes (default 1)")
    parser.add_argument("--cni", choices=("bridge", "ptp"), default="bridge", help="network of the pods")
    parser.add_argument("--proxy", choices=("iptables", "nftables"), default="iptables", help="mode of kube-proxy")
    parser.add_argument("--legacy-iptables", action="store_true", help="use the legacy iptables on the nodes")
    parser.add_argument("--scale-set", default="", help="name of the scale set that has the nodes; default: VMs")
    flags = vars(parser.parse_args(arguments))
    kind = flags.pop("node")
    try:
        options = Options(**flags)
    except ValueError as failure:
        parser.error(str(failure))
    if options != Options():
        if kind == "sandbox":
            parser.error("the flags of real nodes do not apply to --node=sandbox")
        kind = "real"
    if os.geteuid() != 0:
        sys.exit("make cluster: the node is a network namespace, which needs root")
    install_packages("test")  # the check of the machine uses nft and iptables
    reasons = machine.reasons() if kind != "sandbox" else []
    if reasons and kind == "real":
        sys.exit("\n".join(["make cluster: this machine cannot run a real node:", *reasons]))
    shutil.rmtree(FOLDER, ignore_errors=True)
    if kind == "sandbox" or reasons:
        if reasons:
            print("\n".join(["The node is one of the sandbox, because a real one is not possible:", *reasons]))  # noqa: T201
        return run_sandbox()
    return run_real_node(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
