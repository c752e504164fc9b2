"""`python -m podidctl explain pod` and `token` as processes on the sandbox's servers, with a MIC that works there."""

import asyncio
import signal
from typing import Any

from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.objects import identity_id, vm_id

NMI_IMAGE = "mcr.microsoft.com/oss/azure/aad-pod-identity/nmi:v1.8.17"


async def ask(cloud: EmulatedCloud, *words: str, cloudconfig: bool = False) -> CommandResult:
    return await run(cloud.folder, "podidctl", "explain", "pod", *words, cloudconfig=cloudconfig)


async def predict(cloud: EmulatedCloud, *words: str) -> CommandResult:
    return await run(cloud.folder, "podidctl", "token", *words, "-o", "json", cloudconfig=False)


def running(cloud: EmulatedCloud, name: str = "web", *, address: str = "10.0.0.7", **changes: Any) -> None:
    """A pod with an address, as a kubelet leaves it."""
    cloud.pod(name, "n0", **changes)
    stored = cloud.api.store.get("pods", name, changes.get("namespace", "default"))
    stored["status"] = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    cloud.api.store.replace("pods", stored, subresource="status")


def nmi(cloud: EmulatedCloud, node: str) -> None:
    """A pod of the chart's DaemonSet of NMI, which is ready."""
    labels = {"app.kubernetes.io/component": "nmi"}
    meta = {"name": f"nmi-{node}", "namespace": "kube-system", "labels": labels}
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    container = {
        "name": "nmi",
        "image": NMI_IMAGE,
        "args": ["--node=$(NODE_NAME)"],
        "env": [{"name": "NODE_NAME", "valueFrom": field}],
    }
    cloud.api.store.create("pods", {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}})
    stored = cloud.api.store.get("pods", f"nmi-{node}", "kube-system")
    stored["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    cloud.api.store.replace("pods", stored, subresource="status")


async def test_a_pod_with_an_assigned_identity_is_ok_on_azure_too_and_another_one_waits(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    nmi(cloud, "n0")
    await cloud.mic()
    running(cloud)
    running(cloud, "lost", address="10.0.0.8", label="demoo")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    before = len(cloud.arm.writes())
    answer = await ask(cloud, "default/web", "-o", "json", cloudconfig=True)
    assert (answer.code, answer.err) == (0, ""), answer.out
    states = {link["link"]: link["state"] for link in answer.document["links"]}
    assert {"assigned identity", "host", "on Azure", "NMI"} <= set(states)
    assert set(states.values()) == {"ok"}
    assert answer.document["answer"]["identity"] == "default/demo"
    assert answer.document["rules"] == "the flags of pod kube-system/nmi-n0"
    flags = "--nmi-flags=--operation-mode=managed --forceNamespaced"
    assert (await ask(cloud, "web", flags, "-o", "json")).document["rules"] == "--nmi-flags"
    several = (await ask(cloud, "-A", "-o", "json")).document
    assert {pod["pod"]: pod["answer"]["outcome"] for pod in several["pods"]} == {
        "default/lost": "waits",
        "default/web": "granted",
    }
    chosen = (await ask(cloud, "-n", "default", "-l", "aadpodidbinding=demoo", "-o", "json")).document
    assert [pod["pod"] for pod in chosen["pods"]] == ["default/lost"]
    binding = await run(cloud.folder, "podidctl", "explain", "binding", "demo", cloudconfig=False)
    assert (binding.code, binding.out.splitlines()[0]) == (0, "granted: 1 pod")
    token = await predict(cloud, "default/web")
    assert (token.code, token.err) == (0, "")
    assert (token.document["identity"], token.document["resourceId"]) == ("default/demo", identity_id("demo"))
    assert {request.method for request in cloud.api.requests if "podidctl" in request.user_agent} == {"GET"}
    assert len(cloud.arm.writes()) == before
    del cloud.arm.vm(vm_id("n0")).user_assigned[identity_id("demo").lower()]
    taken = await ask(cloud, "web", "-n", "default", cloudconfig=True)
    assert taken.code == 3
    assert "is not attached to n0, so IMDS has no token of it" in taken.out


async def test_a_watched_explanation_ends_with_ctrl_c(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    nmi(cloud, "n0")
    running(cloud)

    async def interrupt(process: asyncio.subprocess.Process) -> None:
        await cloud.until(lambda: sum("/events" in request.path for request in cloud.api.requests) == 2)
        process.send_signal(signal.SIGINT)

    tasks: list[asyncio.Task[None]] = []
    watched = await run(
        *(cloud.folder, "podidctl", "explain", "pod", "web", "--watch"),
        cloudconfig=False,
        started=lambda process: tasks.append(asyncio.create_task(interrupt(process))),
    )
    await tasks[0]
    assert (watched.code, watched.err) == (130, "")
    assert watched.out.count("broken: assigned identity") == 1
