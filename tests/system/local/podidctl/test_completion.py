"""Shell completion: names from the cluster, and no candidates on failure."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from podidctl.cli import application
from podidctl.commands.completion import ClusterNames
from podidctl.commands.connection import CliContext
from tests.support.mic.emulated_cloud import EmulatedCloud


def context(**given: str) -> typer.Context:
    """Stand-in for the command line so far."""
    made = typer.Context(get_command(application()))
    made.params.update(given)
    return made


def names(cloud: EmulatedCloud) -> ClusterNames:
    return ClusterNames(CliContext({"KUBECONFIG": str(cloud.folder / "kubeconfig")}, Path.home), seconds=30)


async def ask(complete: Callable[[typer.Context, str], list[str]], begun: str, **given: str) -> list[str]:
    return await asyncio.to_thread(complete, context(**given), begun)


async def test_objects_with_the_prefix_are_completed_and_it_never_changes_the_requested_path(
    cloud: EmulatedCloud,
) -> None:
    cloud.api.store.create("namespaces", {"metadata": {"name": "payments"}})
    cloud.node("n0")
    cloud.node("n1")
    cloud.pod("web", "n0")
    cloud.pod("worker", "n0", namespace="payments")
    cloud.identity()
    cloud.identity("other", namespace="payments")
    from_cluster = names(cloud)
    assert await ask(from_cluster.namespaces, "pay") == ["payments"]
    assert await ask(from_cluster.pods, "") == ["default/web", "payments/worker"]
    assert await ask(from_cluster.pods, "payments/") == ["payments/worker"]
    assert await ask(from_cluster.pods, "w", namespace="payments") == ["worker"]
    assert await ask(from_cluster.pods, "x") == []
    assert await ask(from_cluster.of_kind, "n", kind="node") == ["n0", "n1"]
    assert await ask(from_cluster.of_kind, "default/", kind="pod") == ["default/web"]
    assert await ask(from_cluster.of_kind, "pay", kind="namespace") == ["payments"]
    assert await ask(from_cluster.of_kind, "", kind="identity") == ["default/demo", "payments/other"]
    assert await ask(from_cluster.of_kind, "o", kind="identity", namespace="payments") == ["other"]
    assert await ask(from_cluster.of_kind, "", kind="before.json") == []
    assert await ask(from_cluster.of_kind, "") == []

    for begun in ("../../../healthz/", "%2e%2e/", "a b/", "/"):
        cloud.api.requests.clear()
        assert await ask(from_cluster.pods, begun) == []
        assert {call.path for call in cloud.api.requests} <= {"/api/v1/pods?limit=500"}, begun


WITHOUT_HASTE = """
import sys
from podidctl import launcher
from podidctl.commands import completion
completion.ClusterNames.__init__.__kwdefaults__["seconds"] = 30
sys.exit(launcher.main())
"""
"""podidctl with the time limit of the other tests: on a busy machine three seconds may be too short."""


@pytest.mark.parametrize("command", ["podidctl", "kubectl_complete-podidentity"])
def test_a_name_that_is_not_resolved_does_not_delay_the_shell(tmp_path: Path, command: str) -> None:
    slow = """
import socket, sys, threading
from podidctl import launcher
from podidctl.commands import completion
completion.ClusterNames.__init__.__kwdefaults__["seconds"] = 2
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
sys.exit((launcher.main if sys.argv[0] == "podidctl" else launcher.complete_for_kubectl)())
"""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://slow.invalid"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    environ = {"KUBECONFIG": str(tmp_path / "config"), "PATH": os.environ["PATH"]}
    words = []
    if command == "podidctl":
        environ |= {"_PODIDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "podidctl explain node n", "COMP_CWORD": "3"}
    else:
        words = ["explain", "node", "n"]
    code = f"import sys; sys.argv[0] = {command!r}\n{slow}"
    argv = [sys.executable, "-c", code, *words]
    done = subprocess.run(argv, check=False, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "" if command == "podidctl" else ":0", "")


async def test_the_shell_receives_the_kinds_and_names_of_access(cloud: EmulatedCloud) -> None:
    cloud.node("n0")

    async def complete(words: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WITHOUT_HASTE,
            stdout=asyncio.subprocess.PIPE,
            env={
                "_PODIDCTL_COMPLETE": "complete_bash",
                "COMP_WORDS": f"podidctl {words}",
                "COMP_CWORD": str(len(words.split(" "))),
                "KUBECONFIG": str(cloud.folder / "kubeconfig"),
                "PATH": os.environ["PATH"],
            },
        )
        printed, _ = await process.communicate()
        return printed.decode().split()

    assert await complete("access n") == ["node", "namespace"]
    assert await complete("access node n") == ["n0"]
    cloud.identity()
    assert await complete("explain binding default/") == ["default/demo"]
    assert await complete("explain node n") == ["n0"]
