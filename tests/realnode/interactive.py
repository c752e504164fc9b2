"""Real nodes with a control plane and an emulated Azure, until Ctrl-C: `make node`.

`build/node/bin` contains kubectl, helm and a shell on each node, as commands for this test bed.
"""

import argparse
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Final

import yaml

from podidentity_sandbox.azure import DEMO_CLIENT_ID, identity_id
from podidentity_sandbox.namespaces import available
from tests.realnode.bed import CHART, NAMESPACE, OUTSIDE, RELEASE, Bed
from tests.realnode.options import Options
from tests.realnode.programs import BUILD
from tests.testplane import up

BIN: Final = BUILD / "bin"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the nodes to a command line."""
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes (default 1)")
    parser.add_argument("--cni", choices=("bridge", "ptp"), default="bridge", help="network of the pods")
    parser.add_argument("--proxy", choices=("iptables", "nftables"), default="iptables", help="mode of kube-proxy")
    parser.add_argument("--legacy-iptables", action="store_true", help="use the legacy iptables on the nodes")
    parser.add_argument("--scale-set", default="", help="name of the scale set that has the nodes; default: VMs")


def options_of(parser: argparse.ArgumentParser, found: argparse.Namespace) -> Options:
    """Return the options of the flags that `add_options` added. Exit with a message if they exclude each other."""
    try:
        return Options(
            nodes=found.nodes,
            cni=found.cni,
            proxy=found.proxy,
            legacy_iptables=found.legacy_iptables,
            scale_set=found.scale_set,
        )
    except ValueError as failure:
        parser.error(str(failure))


def read_options(arguments: list[str]) -> tuple[Options, bool]:
    """Return the options, and whether the chart is to be installed."""
    parser = argparse.ArgumentParser(prog="make node", description="start real Kubernetes nodes on this machine")
    add_options(parser)
    parser.add_argument("--empty", action="store_true", help="do not install the chart")
    found = parser.parse_args(arguments)
    return options_of(parser, found), not found.empty


def write_commands(bed: Bed, folder: Path) -> None:
    """Write the commands for *bed* into *folder*."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kubeconfig = f"KUBECONFIG={bed.plane.folder / 'admin.kubeconfig'}"
    for name in ("kubectl", "helm"):
        _script(folder / name, *bed.namespaces.command(OUTSIDE, ["env", kubeconfig, str(up.tool(name))]))
    for node in bed.nodes:
        _script(folder / f"on-{node.name}", *node.command(()))


def guide(bed: Bed, *, installed: bool) -> str:
    """Return the next steps, with every variable that they use."""
    values = bed.folder / "values.yaml"
    helm = f"  helm install {RELEASE} {CHART} -n {NAMESPACE} --create-namespace --values {values}\n"
    install = "" if installed else helm
    nodes = ", ".join(node.name for node in bed.nodes)
    return f"""\
{nodes}: {bed.options.cni} network, kube-proxy in mode {bed.options.proxy}. Logs: {bed.folder}/node-*/*.log
In another terminal:
  export PATH={BIN}:$PATH
{install}  kubectl get pods -A
  on-{bed.nodes[0].name} iptables-save -t nat
The emulated Azure has the identity for an AzureIdentity of type 0:
  resourceID: {identity_id("demo")}
  clientID: {DEMO_CLIENT_ID}
Press Ctrl-C to remove everything.
"""


def main(arguments: list[str]) -> None:
    """Start a test bed and wait for Ctrl-C or SIGTERM."""
    options, install = read_options(arguments)
    if not available():
        sys.exit("make node: the nodes are network namespaces, which needs root")
    # Both end the test bed, also where the shell that started it ignores Ctrl-C for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with Bed(options) as bed:
            (bed.folder / "values.yaml").write_text(yaml.safe_dump(bed.values()))
            write_commands(bed, BIN)
            if install:
                print("installing the chart", file=sys.stderr, flush=True)  # noqa: T201
                bed.install()
            print(guide(bed, installed=install), flush=True)  # noqa: T201
            signal.pause()
    except KeyboardInterrupt:
        sys.exit(130)


def _script(path: Path, *command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)


if __name__ == "__main__":
    main(sys.argv[1:])
