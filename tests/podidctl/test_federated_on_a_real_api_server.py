"""Federated identities on the real kube-apiserver with the Go implementation's custom resource definitions: MIC assigns
them, and the output of doctor and explain about service accounts and NMI's permissions matches the server's RBAC.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from podidentity.resources import BINDINGS, IDENTITIES
from tests.conftest import ROOT, NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.preview.run_programs import Answer, run
from tests.mic.real_server import add_node, create, in_place_of_the_emulator
from tests.mic.real_server import assigned as assigned_in_default
from tests.podidctl.pods_on_a_real_api_server import run_pod
from tests.support.objects import vm_id
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

REFERENCE: Path = ROOT / "tests" / "mic" / "reference" / "crds.yaml"
CORE = "/api/v1/namespaces/default"
RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"


def prepare(plane: Plane) -> None:
    """A node, a federated identity, two pods of two service accounts, and an NMI that may ask for one's tokens."""
    add_node(plane, "n0", vm_id("n0"))
    create(plane, IDENTITIES, "demo", {"type": 3, "clientID": "c", "tenantID": "contoso.com"})
    create(plane, BINDINGS, "demo", {"azureIdentity": "demo", "selector": "demo"})
    for name in ("nmi", "shop", "bare"):
        plane.api("POST", f"{CORE}/serviceaccounts", {"metadata": {"name": name}})
    rule = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": ["shop"]}
    plane.api("POST", f"{RBAC}/roles", {"metadata": {"name": "nmi"}, "rules": [rule]})
    binding = {
        "metadata": {"name": "nmi"},
        "subjects": [{"kind": "ServiceAccount", "name": "nmi", "namespace": "default"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "nmi"},
    }
    plane.api("POST", f"{RBAC}/rolebindings", binding)
    run_pod(plane, "web", "shop", {"aadpodidbinding": "demo"})
    run_pod(plane, "other", "bare", {"aadpodidbinding": "demo"})
    run_pod(plane, "nmi-x", "nmi", {"component": "nmi"}, "--node=n0", "--federated-identities")


async def ask(cloud: EmulatedCloud, *words: str) -> Answer:
    return await run(cloud.folder, "podidctl", *words, "-o", "json", cloudconfig=False)


async def federated(cloud: EmulatedCloud) -> list[tuple[str, str]]:
    """The findings of doctor about it."""
    findings = (await ask(cloud, "doctor")).document["findings"]
    return [(each["level"], each["says"]) for each in findings if each["check"] == "federated"]


async def link_of(cloud: EmulatedCloud, pod: str) -> dict[str, Any]:
    links = (await ask(cloud, "explain", "pod", f"default/{pod}")).document["links"]
    (link,) = [each for each in links if each["link"] == "service account"]
    return dict(link)


async def test_a_federated_identity_is_assigned_and_permissions_and_accounts_are_reported_correctly(
    cloud: EmulatedCloud, new_plane: NewPlane
) -> None:
    real = await in_place_of_the_emulator(cloud, new_plane, prepare, REFERENCE)
    await cloud.mic()
    await assigned_in_default(real, web="Assigned", other="Assigned")
    assert cloud.arm.calls == []

    forbidden = "NMI's service account default/nmi may not request tokens of service accounts default/bare"
    assert await federated(cloud) == [("problem", forbidden)]
    web, other = await link_of(cloud, "web"), await link_of(cloud, "other")
    assert (web["state"], web["about"]) == ("ok", "default/shop")
    assert "system:serviceaccount:default:shop" in web["says"]
    assert (other["state"], other["about"]) == ("broken", "default/bare")
    assert "federated.namespaces" in other["next"]

    await asyncio.to_thread(real.api, "DELETE", f"{CORE}/serviceaccounts/shop")
    gone = "service account default/shop does not exist; Azure identifies these pods by it: default/web"
    assert ("problem", gone) in await federated(cloud)
    assert (await link_of(cloud, "web"))["says"] == "service account default/shop does not exist"
