"""`deploy/crds` on the real API server and the sandbox's: the columns of kubectl, and the stored fields."""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import GROUP
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.checkout import ROOT
from tests.support.testplane import up

pytestmark = pytest.mark.plane

Kubectl = Callable[..., Awaitable[str]]
NAMESPACES = (f"columns-{number}" for number in itertools.count())
WHY = "AuthorizationFailed: the client may not assign 'demo'"


@pytest.fixture(params=["emulator", "real"])
async def kubectl(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kubectl]:
    """The real kubectl in a separate namespace. Return the standard output; the command must succeed."""
    api: KubeApi | None = None
    if request.param == "real":
        kubeconfig = request.getfixturevalue("plane").kubeconfig
    else:
        api = await asyncio.to_thread(KubeApi, ROOT / "deploy" / "crds")
        await api.start()
        kubeconfig = str(await asyncio.to_thread(api.write_kubeconfig, tmp_path / "kubeconfig"))
    namespace = next(NAMESPACES)
    program = str(await asyncio.to_thread(up.tool, "kubectl"))

    async def run(*arguments: str, document: Any = None) -> str:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--kubeconfig={kubeconfig}",
            f"--cache-dir={tmp_path / 'cache'}",
            f"--namespace={namespace}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30.0):
            output, errors = await process.communicate(json.dumps(document).encode() if document else b"")
        assert process.returncode == 0, errors.decode()
        return output.decode()

    await run("create", "namespace", namespace)
    yield run
    if api is not None:
        await api.stop()


def document(kind: str, name: str, spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name}, "spec": spec, **more}


def cells(shown: str) -> list[list[str]]:
    """The columns of each line, which two or more blanks part."""
    return [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]


async def test_kubectl_get_shows_the_main_fields(kubectl: Kubectl) -> None:
    identity = document("AzureIdentity", "demo", {"type": 0, "resourceID": "r", "clientID": "c1"})
    binding = document("AzureIdentityBinding", "bound", {"azureIdentity": "demo", "selector": "web"})
    exception = document("AzurePodIdentityException", "except", {"podLabels": {"app": "x"}})
    for each in (identity, binding, exception):
        await kubectl("create", "-f", "-", document=each)
    assert [row[:-1] for row in cells(await kubectl("get", "azureidentity"))] == [
        ["NAME", "TYPE", "CLIENTID"],
        ["demo", "0", "c1"],
    ]
    assert [row[:-1] for row in cells(await kubectl("get", "azureidentitybinding"))] == [
        ["NAME", "AZUREIDENTITY", "SELECTOR"],
        ["bound", "demo", "web"],
    ]
    assert [row[:-1] for row in cells(await kubectl("get", "azurepodidentityexception"))] == [
        ["NAME", "PODLABELS"],
        ["except", '{"app":"x"}'],
    ]


async def test_wide_columns_show_why_an_identity_is_not_assigned_yet(kubectl: Kubectl) -> None:
    spec = {"pod": "web", "podNamespace": "ns", "nodename": "n0"}
    waiting = document("AzureAssignedIdentity", "a-waiting", spec, status={"status": "Created"})
    waiting["metadata"]["annotations"] = {
        "aadpodidentity.k8s.io/message": WHY,
        "aadpodidentity.k8s.io/attached-by": "mic",
    }
    in_sync = document("AzureAssignedIdentity", "b-settled", spec, status={"status": "Assigned"})
    for each in (waiting, in_sync):
        await kubectl("create", "-f", "-", document=each)
    header, first, second = cells(await kubectl("get", "azureassignedidentity"))
    assert header == ["NAME", "STATUS", "POD", "POD NAMESPACE", "NODE", "AGE"]
    assert first[:-1] == ["a-waiting", "Created", "web", "ns", "n0"]
    assert second[:-1] == ["b-settled", "Assigned", "web", "ns", "n0"]
    header, first, second = cells(await kubectl("get", "azureassignedidentity", "-o", "wide"))
    assert header[-2:] == ["AGE", "MESSAGE"]
    assert first[-1] == WHY
    assert len(second) == len(header) - 1


OLD: dict[str, dict[str, Any]] = {
    "AzureIdentity": {"type": 1, "ClientID": "c", "clientPassword": {"Name": "n"}, "ADEndpoint": "e"},
    "AzureIdentityBinding": {"azureidentity": "i", "Selector": "s", "Weight": 1},
    "AzurePodIdentityException": {"PodLabels": {"app": "x"}},
}


async def test_old_field_names_survive_storage_in_each_field(kubectl: Kubectl) -> None:
    for kind, spec in OLD.items():
        await kubectl("create", "-f", "-", document=document(kind, "old", spec))
        assert json.loads(await kubectl("get", kind, "old", "-o", "json"))["spec"] == spec
    embedded = {
        field: document(kind, "old", OLD[kind])
        for field, kind in (("azureIdentityRef", "AzureIdentity"), ("azureBindingRef", "AzureIdentityBinding"))
    }
    host_states: dict[str, dict[str, Any]] = {
        "old-fields": {**embedded, "Pod": "web", "podnamespace": "ns"},
        "old-names": {"AzureIdentityRef": embedded["azureIdentityRef"], "azurebindingref": embedded["azureBindingRef"]},
    }
    for name, place in host_states.items():
        whole = document("AzureAssignedIdentity", name, place, status={"Status": "Created"})
        await kubectl("create", "-f", "-", document=whole)
        stored = json.loads(await kubectl("get", "azureassignedidentity", name, "-o", "json"))
        assert (stored["spec"], stored["status"]) == (place, {"Status": "Created"})
