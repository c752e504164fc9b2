"""The deletion of namespaces and definitions with all their objects. Objects: test_equals_the_real_server."""

from typing import Any

from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import CONFIGMAPS, MERGE, Caller, pod

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/example.com/v1/namespaces/default/things"


def definition(plural: str = "things", **version: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": plural},
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}} | version
            ],
        },
    }


def thing(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec}


async def test_a_namespace_has_its_account_and_is_deleted_after_its_objects(api: KubeApi, call: Caller) -> None:
    await call("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}})
    assert api.store.find("serviceaccounts", "default", "n") is not None
    assert api.store.get("configmaps", "kube-root-ca.crt", "n")["data"]["ca.crt"] == api.authority.pem
    await call("POST", "/api/v1/namespaces/n/pods", pod("running", node="n1"))
    deleted = await call("DELETE", "/api/v1/namespaces/n")
    assert deleted.body["status"]["phase"] == "Terminating"
    assert (await call("GET", "/api/v1/namespaces/n/serviceaccounts/default")).status == 404
    refused = await call("POST", "/api/v1/namespaces/n/configmaps", {"metadata": {"name": "late"}})
    assert (refused.status, refused.body["reason"]) == (403, "Forbidden")
    # The pod runs on a node: only its kubelet may end it.
    assert (await call("GET", "/api/v1/namespaces/n")).status == 200
    api.store.delete("pods", "running", "n", grace_seconds=0)
    assert (await call("GET", "/api/v1/namespaces/n")).status == 404


async def test_a_definition_serves_its_kind_until_it_is_deleted(call: Caller) -> None:
    assert (await call("GET", THINGS)).status == 404
    assert (await call("POST", DEFINITIONS, definition())).status == 201
    assert (await call("POST", THINGS, thing("a", size=1))).status == 201
    listed = await call("GET", THINGS)
    assert (listed.body["kind"], listed.names) == ("ThingList", ["a"])
    assert (await call("DELETE", f"{DEFINITIONS}/things.example.com")).status == 200
    assert (await call("GET", THINGS)).status == 404
    await call("POST", DEFINITIONS, definition())
    assert (await call("GET", THINGS)).names == []


async def test_a_changed_definition_changes_the_validation(call: Caller) -> None:
    await call("POST", DEFINITIONS, definition())
    assert (await call("POST", THINGS, thing("a", size="big"))).status == 422
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    patch = {"spec": definition(schema={"openAPIV3Schema": schema})["spec"]}
    assert (await call("PATCH", f"{DEFINITIONS}/things.example.com", patch, MERGE)).status == 200
    assert (await call("POST", THINGS, thing("a", size="big"))).status == 201


async def test_with_a_status_subresource_each_path_changes_its_own_part(call: Caller) -> None:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    await call("POST", DEFINITIONS, definition(subresources={"status": {}}, schema={"openAPIV3Schema": schema}))
    made = await call("POST", THINGS, thing("a", size=1) | {"status": {"seen": True}})
    assert "status" not in made.body
    patch = {"spec": {"size": 2}, "status": {"seen": True}, "metadata": {"labels": {"x": "y"}}}
    status = await call("PATCH", f"{THINGS}/a/status", patch, MERGE)
    assert (status.body["spec"], status.body["status"]) == ({"size": 1}, {"seen": True})
    assert (status.body["metadata"]["generation"], "labels" in status.body["metadata"]) == (1, False)
    main = await call("PATCH", f"{THINGS}/a", {"spec": {"size": 2}, "status": {"seen": False}}, MERGE)
    assert (main.body["spec"], main.body["status"]) == ({"size": 2}, {"seen": True})
    assert main.body["metadata"]["generation"] == 2


async def test_an_update_that_changes_nothing_is_not_written(api: KubeApi, call: Caller) -> None:
    made = await call("POST", CONFIGMAPS, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    again = await call("PATCH", f"{CONFIGMAPS}/a", {"data": {"k": "v"}}, MERGE)
    assert (again.status, again.version) == (200, made.version)
    changed = await call("PATCH", f"{CONFIGMAPS}/a", {"data": {"k": "w"}}, MERGE)
    assert changed.version != made.version
