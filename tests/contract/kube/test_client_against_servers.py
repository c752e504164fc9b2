"""The client's requests, and the error class of each kind of failure; times in a pod's status."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from podidentity.kube import errors
from podidentity.kube.access import ClusterAccess, in_cluster
from podidentity.kube.client import MERGE_PATCH, Client
from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, IDENTITIES, NODES, PODS
from tests.contract.kube.servers import Server, address
from tests.support.waiting import until

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


async def test_a_finalizer_delays_a_deletion(client: Client, namespace: str) -> None:
    document = binding("a")
    document["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create(BINDINGS, namespace, document)
    await client.delete(BINDINGS, namespace, "a")
    assert (await client.get(BINDINGS, namespace, "a")).metadata.deletion_timestamp is not None
    await client.patch_json(BINDINGS, namespace, "a", [{"op": "remove", "path": "/metadata/finalizers"}])
    with pytest.raises(errors.NotFound):
        await client.get(BINDINGS, namespace, "a")


async def test_a_label_selector_and_pages_select_objects(client: Client, namespace: str) -> None:
    for number in range(5):
        document = binding(f"b{number}")
        document["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await client.create(BINDINGS, namespace, document)
    even = await client.list(BINDINGS, namespace, label_selector="parity=even")
    assert [entry.metadata.name for entry in even] == ["b0", "b2", "b4"]
    sizes = [len(page.items) async for page in client.pages(BINDINGS, namespace, page_size=2)]
    assert sizes == [2, 2, 1]


async def test_old_field_names_survive_storage_and_are_read_on_demand(client: Client, namespace: str) -> None:
    old = {"metadata": {"name": "old"}, "spec": {"type": 0, "ClientID": "c", "ResourceID": "r", "TenantID": "t"}}
    await client.create(IDENTITIES, namespace, old)
    spec = (await client.get(IDENTITIES, namespace, "old")).spec
    assert (spec.client_id, spec.resource_id, spec.tenant_id) == ("", "", "")
    client.old_field_names = True
    spec = (await client.get(IDENTITIES, namespace, "old")).spec
    assert (spec.client_id, spec.resource_id, spec.tenant_id) == ("c", "r", "t")


async def test_values_that_no_program_accepts_are_stored(client: Client, namespace: str) -> None:
    odd = {"metadata": {"name": "odd"}, "spec": {"type": 7, "resourceID": "nonsense", "clientID": ""}}
    await client.create(IDENTITIES, namespace, odd)
    spec = (await client.get(IDENTITIES, namespace, "odd")).spec
    assert (spec.type, spec.resource_id, spec.client_id) == (7, "nonsense", "")


async def test_the_status_is_written_on_the_main_resource(client: Client, namespace: str) -> None:
    document = {
        "metadata": {"name": "a"},
        "spec": {"pod": "p", "podNamespace": namespace, "nodename": "n"},
        "status": {"status": "Created"},
    }
    await client.create(ASSIGNED_IDENTITIES, namespace, document)
    operations = [
        {"op": "test", "path": "/status/status", "value": "Created"},
        {"op": "replace", "path": "/status/status", "value": "Assigned"},
    ]
    assert (await client.patch_json(ASSIGNED_IDENTITIES, namespace, "a", operations)).status.status == "Assigned"
    with pytest.raises(errors.Invalid):
        await client.patch_json(ASSIGNED_IDENTITIES, namespace, "a", operations)


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
    async def bad() -> str:
        return "Bearer invalid"

    context = await asyncio.to_thread(lambda: ssl.create_default_context(cadata=server.ca))
    async with Client(ClusterAccess(server.url, context, bad), user_agent="contract") as stranger:
        with pytest.raises(errors.Unauthorized):
            await stranger.list(NODES)


async def test_a_server_of_an_unknown_authority_is_unreachable_and_gets_no_credentials(server: Server) -> None:
    access = replace(await server.access(), ssl=ssl.create_default_context())
    async with Client(access, user_agent="contract") as client:
        with pytest.raises(errors.NoResponse, match="certificate"):
            await client.list(NODES)


@pytest.fixture
def pod_root(tmp_path: Path, server: Server) -> Path:
    """The files that the kubelet mounts into a pod."""
    root = tmp_path / "serviceaccount"
    root.mkdir()
    (root / "ca.crt").write_text(server.ca)
    (root / "token").write_text(server.token + "\n")
    (root / "namespace").write_text("its-own")
    return root


@pytest.fixture
def pod_environ(server: Server) -> dict[str, str]:
    host, port = address(server)
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}


async def test_a_pod_finds_the_server_by_its_mounted_service_account(
    pod_root: Path, pod_environ: dict[str, str]
) -> None:
    access = await asyncio.to_thread(in_cluster, pod_root, pod_environ)
    assert access.namespace == "its-own"
    async with Client(access, user_agent="contract") as inside:
        assert isinstance(await inside.list(NODES), list)


async def test_a_rotated_token_is_read_again_after_a_401(pod_root: Path, pod_environ: dict[str, str]) -> None:
    good = (pod_root / "token").read_text()
    (pod_root / "token").write_text("expired")
    access = await asyncio.to_thread(in_cluster, pod_root, pod_environ)
    (pod_root / "token").write_text(good)
    async with Client(access, user_agent="contract") as inside:
        assert isinstance(await inside.list(NODES), list)


@pytest.fixture
async def without_rights(server: Server, client: Client, namespace: str) -> AsyncIterator[Client]:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    body = await until(
        lambda: client.request("POST", f"{path}/token", body=b'{"spec": {"audiences": []}}'),
        "a controller makes the service account",
        ignoring=errors.NotFound,
    )
    token = body.split(b'"token":"')[1].split(b'"')[0].decode()

    async def authorization() -> str:
        return f"Bearer {token}"

    access = replace(await server.access(), authorization=authorization)
    context = await asyncio.to_thread(lambda: ssl.create_default_context(cadata=server.ca))
    async with Client(replace(access, ssl=context), user_agent="contract") as opened:
        yield opened


@pytest.mark.parametrize("server", [pytest.param("real", marks=pytest.mark.plane)], indirect=True)
async def test_a_missing_permission_is_named(without_rights: Client) -> None:
    with pytest.raises(errors.Forbidden, match="cannot list resource"):
        await without_rights.list(BINDINGS)


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
