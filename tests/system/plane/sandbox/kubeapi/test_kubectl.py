"""The real kubectl against the emulator: the commands of a sandbox user."""

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from podidentity_sandbox.kubeapi import KubeApi, protobuf
from tests.support.checkout import ROOT
from tests.support.kubectl_and_helm import Commands
from tests.support.sandbox.kubeapi.client import pod

pytestmark = pytest.mark.plane

Kubectl = Callable[..., Awaitable[str]]
SECONDS = 60

MANIFEST = """
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: demo}
spec: {type: 0, resourceID: /subscriptions/s, clientID: c1}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: demo-binding}
spec: {azureIdentity: demo, selector: demo}
---
apiVersion: v1
kind: Pod
metadata: {name: demo, labels: {aadpodidbinding: demo}}
spec:
  containers:
  - {name: main, image: "none:1", ports: [{containerPort: 80}]}
"""


@pytest.fixture
async def kubectl(api: KubeApi, tmp_path: Path) -> Kubectl:
    """Runs kubectl; its standard output, or its standard error where it failed."""
    kubeconfig = tmp_path / "kubeconfig"
    await asyncio.to_thread(api.write_kubeconfig, kubeconfig)
    commands = await asyncio.to_thread(Commands, str(kubeconfig))

    async def run(*arguments: str, stdin: str = "") -> str:
        done = await asyncio.to_thread(commands.done, "kubectl", *arguments, stdin=stdin)
        return done.stderr if done.returncode else done.stdout

    return run


async def test_kubectl_completes_the_words_of_its_plugin(tmp_path: Path) -> None:
    commands = await asyncio.to_thread(Commands, str(tmp_path / "kubeconfig"))
    for script, function in (("kubectl-podidentity", "main"), ("kubectl_complete-podidentity", "complete_for_kubectl")):
        code = f"import sys; from podidctl.launcher import {function} as run; sys.exit(run())"
        (tmp_path / script).write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
        (tmp_path / script).chmod(0o755)
    path = f"{tmp_path}:{commands.environment['PATH']}"
    commands.environment = {**commands.environment, "PATH": path, "PYTHONPATH": str(ROOT)}
    printed = await asyncio.to_thread(commands.kubectl, "__complete", "podidentity", "access", "n")
    assert printed == "node\nnamespace\n:4\n"


async def test_a_manifest_is_applied_again_changed_and_deleted(kubectl: Kubectl) -> None:
    changed = MANIFEST.replace("c1", "c2").replace("none:1", "none:2")
    steps = [await kubectl("apply", "-f", "-", stdin=text) for text in (MANIFEST, MANIFEST, changed)]
    words = ("created", "unchanged", "configured")
    assert [step.count(word) for step, word in zip(steps, words, strict=True)] == [3, 3, 2]
    assert await kubectl("get", "azureidentity", "demo", "-o", "jsonpath={.spec.clientID}") == "c2"
    assert (await kubectl("delete", "-f", "-", stdin=changed)).count("deleted") == 3
    assert "NotFound" in await kubectl("get", "pod", "demo")


async def test_the_list_that_kubectl_printed_is_applied(api: KubeApi, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    printed = await kubectl("get", "azureidentity,azureidentitybinding,pods", "-o", "yaml")
    assert "\nkind: List\n" in printed
    await kubectl("delete", "-f", "-", stdin=MANIFEST)
    assert (await kubectl("apply", "-f", "-", stdin=printed)).count("created") == 3
    await kubectl("delete", "-f", "-", stdin=MANIFEST)
    wrong = printed.replace("    type: 0\n", "    type: user\n")
    assert "spec.type: Invalid value" in await kubectl("apply", "-f", "-", stdin=wrong)


async def test_the_columns_of_pods_and_nodes_are_shown(api: KubeApi, kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    lines = [line.split() for line in (await kubectl("get", "azureidentity,pods", "-A")).splitlines() if line]
    assert lines[1][:2] == ["default", "azureidentity.aadpodidentity.k8s.io/demo"]
    assert lines[2][:6] == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert lines[3][:4] == ["default", "pod/demo", "0/1", "Pending"]
    api.store.create(
        "nodes", {"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    )
    assert (await kubectl("get", "nodes", "--no-headers")).split()[:3] == ["n1", "Ready", "<none>"]


async def test_kubectl_wait_for_a_condition_and_for_deletion(api: KubeApi, kubectl: Kubectl) -> None:
    api.store.create("pods", pod("p", node="n1"), "default")
    waiting = asyncio.ensure_future(kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/p"))
    async with asyncio.timeout(SECONDS):
        await api.until_watched("pods")
    ready = {"phase": "Running", "podIP": "127.1.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    api.store.patch("pods", "p", {"status": ready}, "default", subresource="status")
    assert await waiting == "pod/p condition met\n"
    marked = asyncio.Event()
    api.store.subscribe("pods", lambda _: marked.set())
    deleting = asyncio.ensure_future(kubectl("delete", "pod", "p"))
    async with asyncio.timeout(SECONDS):
        await marked.wait()
        await api.until_watched("pods")
    api.store.delete("pods", "p", "default", grace_seconds=0)
    assert "deleted" in await deleting


async def test_kubectl_sends_every_kind_that_the_emulator_decodes_from_protobuf(
    api: KubeApi, kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = set()
    decode = protobuf.decode

    def recorded(data: bytes) -> dict[str, Any]:
        document = decode(data)
        kinds.add(document["kind"])
        return document

    monkeypatch.setattr(protobuf, "decode", recorded)
    api.store.create("nodes", {"metadata": {"name": "n1"}})
    api.store.create("pods", pod("p", node="n1"), "default")
    for command in (
        "create namespace n",
        "create configmap c -n n --from-literal=a=b",
        "create secret generic s -n n --from-literal=a=b",
        "create serviceaccount a -n n",
    ):
        assert "created" in await kubectl(*command.split())
    assert api.store.get("configmaps", "c", "n")["data"] == {"a": "b"}
    assert api.store.get("secrets", "s", "n")["data"] == {"a": base64.b64encode(b"b").decode()}
    token = await kubectl("create", "token", "a", "-n", "n", "--audience", "x")
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["aud"] == ["x"]
    for command in ("auth can-i get pods", "auth can-i --list", "drain n1 --force --grace-period=0"):
        await kubectl(*command.split())
    assert "deleted" in await kubectl("delete", "namespace", "n")
    assert kinds == protobuf.KINDS
