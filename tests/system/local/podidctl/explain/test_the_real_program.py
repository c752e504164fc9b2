"""`python -m podidctl explain pod` and `token` as processes on the sandbox's servers, with a MIC that works there."""

import asyncio
import signal
from typing import Any

import yaml

from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.mic.emulated_cloud import ASSIGNED, BINDINGS, EmulatedCloud
from tests.support.mic.preview.run_programs import CommandResult, run
from tests.support.objects import identity_id, vm_id

HIDDEN = ("/nodes/", "/events", "component")
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


def nmi(cloud: EmulatedCloud, node: str, *args: str, ready: bool = True, label: str = "component") -> None:
    """A pod of NMI's DaemonSet."""
    meta = {"name": f"nmi-{node}", "namespace": "kube-system", "labels": {label: "nmi"}}
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    container = {
        "name": "nmi",
        "image": NMI_IMAGE,
        "args": ["--node=$(NODE_NAME)", *args],
        "env": [{"name": "NODE_NAME", "valueFrom": field}],
    }
    cloud.api.store.create("pods", {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}})
    stored = cloud.api.store.get("pods", f"nmi-{node}", "kube-system")
    stored["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    cloud.api.store.replace("pods", stored, subresource="status")


async def test_a_pod_with_an_assigned_identity_is_ok_on_azure_too(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    nmi(cloud, "n0")
    await cloud.mic()
    running(cloud)
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    before = len(cloud.arm.writes())
    answer = await ask(cloud, "default/web", "-o", "json", cloudconfig=True)
    assert (answer.code, answer.err) == (0, ""), answer.out
    states = {link["link"]: link["state"] for link in answer.document["links"]}
    assert {"assigned identity", "host", "on Azure", "NMI"} <= set(states)
    assert set(states.values()) == {"ok"}
    assert answer.document["answer"]["identity"] == "default/demo"
    assert answer.document["rules"] == "the flags of pod kube-system/nmi-n0"
    token = await predict(cloud, "default/web")
    assert (token.code, token.err) == (0, "")
    assert (token.document["identity"], token.document["resourceId"]) == ("default/demo", identity_id("demo"))
    assert {request.method for request in cloud.api.requests if "podidctl" in request.user_agent} == {"GET"}
    assert len(cloud.arm.writes()) == before
    del cloud.arm.vm(vm_id("n0")).user_assigned[identity_id("demo").lower()]
    taken = await ask(cloud, "web", "-n", "default", cloudconfig=True)
    assert taken.code == 3
    assert "is not attached to n0, so IMDS has no token of it" in taken.out


async def test_a_broken_binding_and_events_of_nmi_and_mic_are_printed(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    nmi(cloud, "n0")
    running(cloud)
    uid = cloud.api.store.get("pods", "web", "default")["metadata"]["uid"]
    for number, component in enumerate(("aad-pod-identity-nmi", "kubelet")):
        about = {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid, "apiVersion": "v1"}
        cloud.api.store.create(
            "events",
            {
                "metadata": {"name": f"web.{number}", "namespace": "default"},
                "involvedObject": about,
                "type": "Warning",
                "reason": "IdentityNotAssigned",
                "message": f"told by {component}\x1b[31m [bold]loud[/] eyJhbGciOiJSUzI1NiJ9.eyJhIjoxfQ.c2lnbmF0dXJl",
                "lastTimestamp": "2026-01-01T00:00:00Z",
                "source": {"component": component},
            },
        )
    answer = await ask(cloud, "web")
    assert "told by aad-pod-identity-nmi" in answer.out
    assert "[bold]loud[/]" in answer.out, "foreign text is not interpreted as markup"
    assert "told by kubelet" not in answer.out
    assert "\x1b" not in answer.out
    assert "eyJhbGci" not in answer.out
    cloud.api.intercept = lambda request: (
        StatusError(403, "Forbidden", "no") if any(part in request.path for part in HIDDEN) else None
    )
    unread = (await ask(cloud, "web", "-o", "json")).document
    states = {link["link"]: link["state"] for link in unread["links"]}
    assert (states["host"], states["NMI"]) == ("unknown", "unknown")
    assert unread["eventsUnread"].startswith("not allowed")
    cloud.api.intercept = None
    cloud.api.store.patch(BINDINGS, "demo", {"spec": {"selector": "demoo"}}, "default")
    answer = await ask(cloud, "web")
    assert (answer.code, answer.err) == (3, "")
    first, *lines = answer.out.splitlines()
    assert first.startswith("broken: binding: ")
    (row,) = [line for line in lines if "broken" in line]
    assert "no AzureIdentityBinding has selector 'demo'" in row
    assert "next: set spec.selector of the binding or the pod's label" in answer.out
    assert "default/demo selects 'demoo'" in answer.out
    as_json, as_yaml = await asyncio.gather(ask(cloud, "web", "-o", "json"), ask(cloud, "web", "-o", "yaml"))
    assert as_json.code == as_yaml.code == 3
    assert as_json.document == yaml.safe_load(as_yaml.out)
    token = await predict(cloud, "web", "--client-id=a", "--resource-id=b")
    assert (token.code, token.document["status"], token.document["error"]) == (3, 400, "invalid_request")
    absent = await ask(cloud, "absent")
    assert (absent.code, absent.err) == (3, "")
    assert "this pod does not exist" in absent.out
    cloud.api.store.delete("customresourcedefinitions.apiextensions.k8s.io", ASSIGNED)
    missing = await ask(cloud, "web")
    assert (missing.code, missing.out, missing.err.count("\n")) == (1, "", 1)
    assert "install deploy/crds" in missing.err


async def test_several_pods_and_a_binding_are_explained(cloud: EmulatedCloud) -> None:
    cloud.node("n0")
    cloud.identity()
    nmi(cloud, "n0")
    await cloud.mic()
    running(cloud)
    running(cloud, "lost", address="10.0.0.8", label="demoo")
    await cloud.until(lambda: cloud.assigned() == {"web-default-demo": "Assigned"})
    several = await ask(cloud, "-n", "default", cloudconfig=True)
    assert (several.code, several.err) == (3, "")
    assert several.out.splitlines()[0] == "broken: 1 of 2 pods"
    assert "granted default/demo: 1 pod: default/web" in several.out
    document = (await ask(cloud, "-A", "-o", "json")).document
    assert {pod["pod"]: pod["answer"]["outcome"] for pod in document["pods"]} == {
        "default/lost": "waits",
        "default/web": "granted",
    }
    assert document["pods"][1] == (await ask(cloud, "web", "-o", "json")).document
    wrong = await ask(cloud, "-A", "-l", "app in")
    assert (wrong.code, wrong.err.startswith("podidctl: Invalid value: -l: unable to parse")) == (2, True)
    binding = await run(cloud.folder, "podidctl", "explain", "binding", "demo", cloudconfig=False)
    assert (binding.code, binding.out.splitlines()[0]) == (0, "granted: 1 pod")


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


async def test_nmis_own_flags_count_in_every_place_where_they_can_be_set(cloud: EmulatedCloud) -> None:
    flags = ("--operation-mode=managed", "--forceNamespaced")
    cloud.node("n0")
    cloud.identity()
    running(cloud)
    nmi(cloud, "n0", *flags, label="app.kubernetes.io/component")
    managed = await ask(cloud, "web")
    assert managed.code == 0, managed.out
    assert (await predict(cloud, "web")).document["outcome"] == "granted"
    cloud.api.store.delete("pods", "nmi-n0", "kube-system", grace_seconds=0)
    assert (await ask(cloud, "web")).code == 3
    assert (await ask(cloud, "web", f"--nmi-flags={' '.join(flags)}")).code == 0
