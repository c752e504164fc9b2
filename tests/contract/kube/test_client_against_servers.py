"""The client's requests, and the error class of each kind of failure; times in a pod's status."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from podidentity.kube import errors
from podidentity.kube.access import in_cluster
from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.resources import BINDINGS, NODES, PODS
from tests.contract.kube.servers import Server, address
from tests.support.direct_access import direct_access

Act = Callable[[Client, str], Awaitable[Any]]


def binding(name: str, **spec: object) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"azureIdentity": "i", "selector": "s", **spec}}


async def test_an_object_is_created_read_changed_and_deleted(client: Client, namespace: str) -> None:
    made = await client.create(BINDINGS, namespace, binding("a"))
    assert made.spec.selector == "s"
    assert await client.get(BINDINGS, namespace, "a") == made
    merged = await client.patch_merge(BINDINGS, namespace, "a", {"spec": {"weight": 3}})
    assert (merged.spec.weight, merged.spec.selector) == (3, "s")
    replaced = await client.replace(
        BINDINGS,
        namespace,
        "a",
        {**binding("a", selector="t"), "metadata": {"name": "a", "resourceVersion": merged.metadata.resource_version}},
    )
    assert replaced.spec.selector == "t"
    patched = await client.patch_json(
        BINDINGS, namespace, "a", [{"op": "replace", "path": "/spec/selector", "value": "u"}]
    )
    assert [entry.spec.selector for entry in await client.list(BINDINGS, namespace)] == [patched.spec.selector] == ["u"]
    await client.delete(BINDINGS, namespace, "a", uid=made.metadata.uid)
    with pytest.raises(errors.NotFound):
        await client.get(BINDINGS, namespace, "a")


async def create_twice(client: Client, namespace: str) -> None:
    await client.create(BINDINGS, namespace, binding("a"))
    await client.create(BINDINGS, namespace, binding("a"))


async def replace_stale(client: Client, namespace: str) -> None:
    made = await client.create(BINDINGS, namespace, binding("a"))
    await client.patch_merge(BINDINGS, namespace, "a", {"spec": {"weight": 3}})
    stale = {"name": "a", "resourceVersion": made.metadata.resource_version}
    await client.replace(BINDINGS, namespace, "a", {**binding("a"), "metadata": stale})


async def delete_a_namesake(client: Client, namespace: str) -> None:
    await client.create(BINDINGS, namespace, binding("a"))
    await client.delete(BINDINGS, namespace, "a", uid="another")


async def remove_what_is_missing(client: Client, namespace: str) -> None:
    await client.create(BINDINGS, namespace, binding("a"))
    await client.patch_json(BINDINGS, namespace, "a", [{"op": "remove", "path": "/metadata/annotations"}])


async def name_another_resource(client: Client, namespace: str) -> None:
    await client.get(BINDINGS, namespace, "../azureidentities/a")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda client, namespace: client.get(BINDINGS, namespace, "none"), errors.NotFound),
        (lambda client, _: client.delete(NODES, "", "none"), errors.NotFound),
        (create_twice, errors.AlreadyExists),
        (replace_stale, errors.Conflict),
        (delete_a_namesake, errors.Conflict),
        (remove_what_is_missing, errors.Invalid),
        (name_another_resource, errors.Invalid),
        (lambda client, _: client.request("GET", "/api/v1/nodes", params={"labelSelector": "!!"}), errors.ApiError),
        (lambda client, _: client.request("GET", "/apis/example.com/v1/nothing"), errors.NotFound),
    ],
    ids=[
        "get-missing", "delete-missing", "create-twice", "replace-stale", "delete-namesake", "patch-missing",
        "name-with-slashes", "bad-selector", "unknown-kind",
    ],
)  # fmt: skip
async def test_each_mistake_has_its_error(client: Client, namespace: str, act: Act, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        await act(client, namespace)
    assert type(raised.value) is error


async def test_bad_credentials_are_unauthorized(server: Server) -> None:
    async with Client(direct_access(server.url, server.ca, "invalid"), user_agent="contract") as stranger:
        with pytest.raises(errors.Unauthorized):
            await stranger.list(NODES)


async def test_a_server_of_an_unknown_authority_is_unreachable_and_gets_no_credentials(server: Server) -> None:
    access = replace(await server.access(), ssl=ssl.create_default_context())
    async with Client(access, user_agent="contract") as client:
        with pytest.raises(errors.NoResponse, match="certificate"):
            await client.list(NODES)


async def test_a_pod_finds_the_server_by_its_mounted_service_account_and_reads_a_rotated_token_after_a_401(
    server: Server, tmp_path: Path
) -> None:
    host, port = address(server)
    for name, text in (("ca.crt", server.ca), ("token", "expired"), ("namespace", "its-own")):
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
    access = await asyncio.to_thread(in_cluster, tmp_path, environ)
    assert access.namespace == "its-own"
    (tmp_path / "token").write_text(server.token + "\n")
    async with Client(access, user_agent="contract") as inside:
        assert isinstance(await inside.list(NODES), list)


@pytest.mark.parametrize("server", [pytest.param("real", marks=pytest.mark.plane)], indirect=True)
@pytest.mark.usefixtures("account")
async def test_a_missing_permission_is_named(server: Server, client: Client, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    token = msgspec.json.decode(await client.request("POST", path, body=b"{}"))["status"]["token"]
    async with Client(direct_access(server.url, server.ca, token), user_agent="contract") as stranger:
        with pytest.raises(errors.Forbidden, match="cannot list resource"):
            await stranger.list(BINDINGS)


POD: dict[str, Any] = {
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "c", "image": "i"}], "automountServiceAccountToken": False},
}
STATE = {"terminated": {"exitCode": 128, "reason": "ContainerCannotRun"}}


@pytest.mark.usefixtures("account")
async def test_a_container_that_ended_without_a_start_time_is_read(client: Client, namespace: str) -> None:
    await client.create(PODS, namespace, POD)
    container = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": STATE}
    status = msgspec.json.encode({"status": {"phase": "Failed", "containerStatuses": [container]}})
    path = PODS.path(namespace, "p", "status")
    await client.request("PATCH", path, body=status, content_type=MERGE_PATCH)
    (pod,) = await client.list(PODS, namespace)
    assert pod.terminated
    assert client.skipped.counts == {}
