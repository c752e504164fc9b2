"""200 service accounts of 50 namespaces use one identity with one federated credential, on the real API server.

The API server makes and binds the assertions, and decides for the token proxy by its RBAC.
"""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from nmi.tokens.proxy_refusals import MissingStep, NotBoundError
from nmi.tokens.source import Workload
from podidentity.azure.federation import BINDING_GROUP, BINDING_VERB
from podidentity.kube.client import Client
from podidentity.resources import PODS
from podidentity_sandbox.serving import ResponseFault
from tests.support.direct_access import direct_access
from tests.support.nmi.tokens.binding_bench import RBAC, BindingBench, binding_bench, refused
from tests.support.nmi.tokens.sign_in_bench import claims
from tests.support.testplane import up
from tests.support.waiting import until

pytestmark = [pytest.mark.plane, pytest.mark.measures, pytest.mark.timeout(240)]

NAMESPACES = tuple(f"binding-{number}" for number in range(50))
ACCOUNTS = ("web", "api", "worker", "job")
ROLES, ROLE_BINDINGS = (f"/apis/{RBAC}/v1/{plural}" for plural in ("clusterroles", "clusterrolebindings"))
PROXY_SECONDS = 0.05
FIRST_TOKEN_SECONDS = 0.15
NAME = "use-bound"


def make_pods(plane: up.Plane) -> Iterator[Workload]:
    """Create the namespaces, service accounts and pods."""
    for namespace in NAMESPACES:
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for account in ACCOUNTS:
            named: dict[str, Any] = {"metadata": {"name": account}}
            plane.api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", named)
            spec = {"serviceAccountName": account, "automountServiceAccountToken": False}
            pod = named | {"spec": {**spec, "containers": [{"name": "c", "image": "i"}]}}
            uid = plane.api("POST", PODS.path(namespace), pod)["metadata"]["uid"]
            yield Workload(namespace, account, uid, account)


def make_role(plane: up.Plane, client_id: str) -> None:
    rule = {"verbs": [BINDING_VERB], "apiGroups": [BINDING_GROUP], "resources": [client_id]}
    plane.api("POST", ROLES, {"metadata": {"name": NAME}, "rules": [rule]})


def permit(plane: up.Plane, namespaces: tuple[str, ...]) -> None:
    groups = [f"system:serviceaccounts:{namespace}" for namespace in namespaces]
    document = {
        "metadata": {"name": NAME},
        "subjects": [{"kind": "Group", "apiGroup": RBAC, "name": group} for group in groups],
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": NAME},
    }
    plane.api("POST", ROLE_BINDINGS, document)


def forbid(plane: up.Plane) -> None:
    plane.api("DELETE", f"{ROLE_BINDINGS}/{NAME}")


def remove_all(plane: up.Plane) -> None:
    forbid(plane)
    for path in (f"{ROLES}/{NAME}", *(f"/api/v1/namespaces/{namespace}" for namespace in NAMESPACES)):
        plane.api("DELETE", path)


@pytest.fixture
async def bound(plane: up.Plane, tmp_path: Path) -> AsyncIterator[BindingBench]:
    """Yield NMI's source on the real API server, and the token proxy."""
    async with Client(direct_access(plane.server, plane.ca, plane.token), user_agent="test") as client:
        async with binding_bench(tmp_path, loopback=True, client=client) as bench:
            yield bench
        await asyncio.to_thread(remove_all, plane)


async def test_two_hundred_service_accounts_share_one_credential_until_the_permission_is_removed(
    plane: up.Plane, bound: BindingBench
) -> None:
    async def is_permitted() -> bool:
        try:
            await bound.fetch(workloads[0])
        except NotBoundError:
            return False
        return True

    workloads = await asyncio.to_thread(lambda: list(make_pods(plane)))
    assert len({(each.namespace, each.service_account) for each in workloads}) == 200
    await asyncio.to_thread(make_role, plane, bound.managed.client_id)
    await asyncio.to_thread(permit, plane, NAMESPACES)
    await until(is_permitted, "the API server applies its RBAC")  # the node is warm: azure-identity is loaded
    bound.proxy.faults.add(ResponseFault(delay_seconds=PROXY_SECONDS, times=math.inf))
    seconds = []
    for workload in workloads[1:]:
        began = time.perf_counter()
        token = await bound.fetch(workload)
        seconds.append(time.perf_counter() - began)
        assert claims(token)["appid"] == bound.managed.client_id
    assert statistics.median(seconds) < FIRST_TOKEN_SECONDS, f"maximum {max(seconds):.3f} s"
    assert len(bound.bench.directory.federated(bound.managed.client_id, math.inf)) == 1
    assert {call.pod for call in bound.proxy.calls} == {f"{each.namespace}/{each.pod}" for each in workloads}

    bound.proxy.faults.clear()
    await asyncio.to_thread(forbid, plane)
    await until(is_permitted, "the API server applies its RBAC", holds=lambda permitted: not permitted)
    for workload in workloads[::20]:
        assert (await refused(bound, workload=workload)).step is MissingStep.PERMISSION
    await asyncio.to_thread(permit, plane, NAMESPACES[:1])
    await until(is_permitted, "the API server applies its RBAC")
