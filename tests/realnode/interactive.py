"""The flags of `make cluster` for real nodes, and its commands: kubectl, helm and a shell on each node."""

import argparse
import shlex
import shutil
from pathlib import Path

from tests.realnode.bed import OUTSIDE, Bed
from tests.realnode.options import Options
from tests.testplane import up


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


def write_commands(bed: Bed, folder: Path) -> None:
    """Write the commands for *bed* into *folder*."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kubeconfig = f"KUBECONFIG={bed.plane.folder / 'admin.kubeconfig'}"
    for name in ("kubectl", "helm"):
        _script(folder / name, *bed.namespaces.command(OUTSIDE, ["env", kubeconfig, str(up.tool(name))]))
    for node in bed.nodes:
        _script(folder / f"on-{node.name}", *node.command(()))


def _script(path: Path, *command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
