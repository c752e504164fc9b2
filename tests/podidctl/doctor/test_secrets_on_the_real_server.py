"""NMI's permission to get Secrets by the real API server's RBAC, in the cluster and in a namespace."""

import asyncio
from collections.abc import Callable

import pytest

from podidentity.resources import IDENTITIES
from tests.conftest import NewPlane
from tests.mic.emulated_cloud import EmulatedCloud
from tests.mic.real_server import in_place_of_the_emulator
from tests.podidctl.doctor.test_rights_on_the_real_server import doctor, run_daemon
from tests.support.waiting import until
from tests.testplane.accounts import RBAC, create_account
from tests.testplane.up import Plane

pytestmark = pytest.mark.plane

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
