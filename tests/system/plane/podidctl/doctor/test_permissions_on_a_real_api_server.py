"""The permissions that doctor checks, by the real API server's RBAC: with exactly these both programs work, and missing
and superfluous ones are reported.
"""

import asyncio
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from podidctl.doctor.rights import mic_rights, nmi_rights
from podidctl.doctor.state import Right
from podidentity.resources import IDENTITIES
from podidentity_sandbox.serving import free_ports
from tests.conftest import NewPlane
from tests.support.checkout import ROOT
from tests.support.mic.emulated_cloud import EmulatedCloud
from tests.support.mic.preview.run_programs import Answer, run
from tests.support.mic.real_server import add_node, assigned, bind, in_place_of_the_emulator, run_pod
from tests.support.objects import vm_id
from tests.support.testplane.accounts import RBAC, create_account
from tests.support.testplane.up import Plane
from tests.support.waiting import until

pytestmark = pytest.mark.plane

MIC = mic_rights(
    namespace="default",
    lease_namespace="default",
    lease="aad-pod-identity-mic",
    config_map="aad-pod-identity-config",
    taint=True,
)
TAINT = "--startup-taint=example.org/nmi-starting"
NMI = nmi_rights(managed=False)


def rules(rights: Sequence[Right]) -> list[dict[str, Any]]:
    return [
        {"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]}
        | ({"resourceNames": [each.name]} if each.name else {})
        for each in rights
    ]


def run_daemon(plane: Plane, program: str) -> None:
    """A pod from which the doctor reads *program*'s service account. It does not run."""
    meta = {"name": f"{program}-x", "labels": {"component": program}}
    spec = {
        "nodeName": "n0",
        "serviceAccountName": program,
        "automountServiceAccountToken": False,
        "containers": [{"name": program, "image": "i", "args": ["--node=n0"] if program == "nmi" else [TAINT]}],
    }
    plane.api("POST", "/api/v1/namespaces/default/pods", {"metadata": meta, "spec": spec})


@asynccontextmanager
async def nmi(folder: Path) -> AsyncIterator[tuple[int, Path]]:
    """The real NMI of node n0, by the kubeconfig `nmi` in *folder*, without a rule; its probe port and its log."""
    listen, probes, metrics = free_ports(3)
    log = folder / "nmi.log"
    flags = (
        "--node=n0",
        "--redirect=none",
        f"--nmi-port={listen}",
        f"--http-probe-port={probes}",
        f"--prometheus-port={metrics}",
        f"--kubeconfig={folder / 'nmi'}",
    )
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "nmi",
            *flags,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdout=output,
            stderr=output,
        )
    try:
        yield probes, log
    finally:
        process.terminate()
        await process.wait()


async def ready(port: int) -> None:
    def page() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bytes(answer.read())

    await until(lambda: asyncio.to_thread(page), "NMI is ready", ignoring=OSError)


async def doctor(cloud: EmulatedCloud) -> Answer:
    return await run(cloud.folder / "admin", "podidctl", "doctor", "-o", "json", cloudconfig=False)


def permission_findings(answer: Answer) -> list[tuple[str, str]]:
    return [(each["level"], each["says"]) for each in answer.document["findings"] if each["check"] == "rights"]


async def test_exactly_these_permissions_suffice_and_a_missing_one_is_named(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    def prepare(plane: Plane) -> None:
        add_node(plane, "n0", vm_id("n0"))
        bind(plane, "demo")

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    (cloud.folder / "admin").mkdir()
    (cloud.folder / "kubeconfig").rename(cloud.folder / "admin" / "kubeconfig")
    (cloud.folder / "kubeconfig").write_text(await asyncio.to_thread(create_account, real, "mic", rules(MIC)))
    (cloud.folder / "nmi").write_text(await asyncio.to_thread(create_account, real, "nmi", rules(NMI)))

    mic = await cloud.mic(TAINT)
    async with nmi(cloud.folder) as (probes, log):
        await ready(probes)
        await asyncio.to_thread(run_pod, real, "web", "n0")
        await assigned(real, web="Assigned")
        assert "forbidden" not in mic.read_log().lower()
        assert "forbidden" not in log.read_text().lower()

    for program in ("mic", "nmi"):
        await asyncio.to_thread(run_daemon, real, program)
    well = await doctor(cloud)
    assert [level for level, _ in permission_findings(well)] == ["ok", "ok"], well.out

    less = {
        "mic": [each for each in MIC if (each.verb, each.resource) != ("create", "azureassignedidentities")],
        "nmi": [each for each in NMI if each.resource != "events"],
    }
    for name, rights in less.items():
        document = {"metadata": {"name": name}, "rules": rules(rights)}
        await asyncio.to_thread(real.api, "PUT", f"{RBAC}/clusterroles/{name}", document)

    async def read() -> list[tuple[str, str]]:
        return permission_findings(await doctor(cloud))

    findings = await until(
        read,
        "the authorizer, which follows by a watch, refuses",
        holds=lambda found: all(level != "ok" for level, _ in found),
    )
    (first, second) = sorted(findings)
    assert first[0] == "problem"
    assert first[1].startswith("MIC's service account default/mic may not: create azureassignedidentities.")
    assert second[0] == "warning"
    assert "create events, patch events" in second[1]


RULES = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
SPEC = {"type": 1, "clientID": "c", "tenantID": "contoso.com", "clientPassword": {"name": "s"}}


def grant(plane: Plane, namespace: str) -> None:
    """A Role of this namespace lets NMI get its Secrets, as the chart's rbac.secretNamespaces does."""
    path = RBAC + f"/namespaces/{namespace}"
    plane.api("POST", f"{path}/roles", {"metadata": {"name": "nmi"}, "rules": RULES})
    document = {
        "metadata": {"name": "nmi"},
        "subjects": [{"kind": "ServiceAccount", "name": "nmi", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "nmi"},
    }
    plane.api("POST", f"{path}/rolebindings", document)


def identity(plane: Plane, namespace: str) -> None:
    document = {"apiVersion": IDENTITIES.api_version, "kind": IDENTITIES.name, "metadata": {"name": "sp"}, "spec": SPEC}
    plane.api("POST", IDENTITIES.path(namespace), document)


async def secret_findings(
    cloud: EmulatedCloud, wanted: Callable[[list[tuple[str, str]]], bool]
) -> list[tuple[str, str]]:
    """Level and text of the findings about Secrets, once they are as *wanted*: the authorizer follows by a watch."""

    async def read() -> list[tuple[str, str]]:
        findings = (await doctor(cloud)).document["findings"]
        return [(each["level"], each["says"]) for each in findings if each["check"] == "secrets"]

    return await until(read, "findings about Secrets", holds=lambda found: found and wanted(found))


async def test_missing_and_superfluous_permissions_are_reported(cloud: EmulatedCloud, new_plane: NewPlane) -> None:
    def prepare(plane: Plane) -> None:
        for name in ("shop", "reports"):
            plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
            identity(plane, name)
        create_account(plane, "nmi", [])
        run_daemon(plane, "nmi")

    real = await in_place_of_the_emulator(cloud, new_plane, prepare)
    (cloud.folder / "admin").mkdir()
    (cloud.folder / "kubeconfig").rename(cloud.folder / "admin" / "kubeconfig")

    ((level, says),) = await secret_findings(cloud, lambda _: True)
    assert (level, says.endswith("in reports, shop")) == ("problem", True)
    await asyncio.to_thread(grant, real, "shop")
    ((level, says),) = await secret_findings(cloud, lambda found: "shop" not in found[0][1])
    assert (level, says.endswith("in reports")) == ("problem", True)
    await asyncio.to_thread(grant, real, "reports")
    ((level, _),) = await secret_findings(cloud, lambda found: found[0][0] != "problem")
    assert level == "ok"

    await asyncio.to_thread(real.api, "PUT", f"{RBAC}/clusterroles/nmi", {"metadata": {"name": "nmi"}, "rules": RULES})
    ((level, says),) = await secret_findings(cloud, lambda found: "every Secret" in found[0][1])
    assert (level, says.endswith("can limit it to reports, shop")) == ("ok", True)
    for name in ("shop", "reports"):
        await asyncio.to_thread(real.api, "DELETE", IDENTITIES.path(name, "sp"))
    ((level, says),) = await secret_findings(cloud, lambda found: found[0][0] != "ok")
    assert (level, "no AzureIdentity is of type 1 or 2" in says) == ("warning", True)
