"""`deploy/crds`: the columns that kubectl prints, and the stored fields.

test_equals_the_real_server.py shows that a real API server makes the same tables, and stores the same fields.
"""

from typing import Any

import pytest

from podidentity.resources import ASSIGNED_IDENTITIES, BINDINGS, EXCEPTIONS, GROUP, IDENTITIES, Kind
from podidentity_sandbox.kubeapi import KubeApi
from tests.support.sandbox.kubeapi.client import TABLE, Caller

WHY = "AuthorizationFailed: the client may not assign 'demo'"


async def columns(call: Caller, kind: Kind[Any], *, wide: bool = False) -> list[list[Any]]:
    """Return the headings and cells that kubectl prints, without the age; with *wide* as for `-o wide`."""
    table = (await call("GET", kind.path("default"), accept=TABLE)).body
    headings = [(column["name"].upper(), column["priority"]) for column in table["columnDefinitions"]]
    shown = [at for at, (name, priority) in enumerate(headings) if name != "AGE" and (wide or not priority)]
    return [[headings[at][0] for at in shown], *([row["cells"][at] for at in shown] for row in table["rows"])]


@pytest.mark.parametrize(
    ("kind", "spec", "shown"),
    [
        (IDENTITIES, {"type": 0, "resourceID": "r", "clientID": "c1"}, {"TYPE": 0, "CLIENTID": "c1"}),
        (BINDINGS, {"azureIdentity": "demo", "selector": "web"}, {"AZUREIDENTITY": "demo", "SELECTOR": "web"}),
        (EXCEPTIONS, {"podLabels": {"app": "x"}}, {"PODLABELS": '{"app":"x"}'}),
    ],
)
async def test_the_main_fields_have_columns(
    api: KubeApi, call: Caller, kind: Kind[Any], spec: dict[str, Any], shown: dict[str, Any]
) -> None:
    api.store.create(f"{kind.plural}.{GROUP}", {"metadata": {"name": "demo"}, "spec": spec}, "default")
    assert await columns(call, kind) == [["NAME", *shown], ["demo", *shown.values()]]


async def test_a_wide_column_shows_why_an_identity_is_not_assigned_yet(api: KubeApi, call: Caller) -> None:
    spec = {"pod": "web", "podNamespace": "ns", "nodename": "n0"}
    notes = {f"{GROUP}/message": WHY, f"{GROUP}/attached-by": "mic"}
    for name, status, annotations in (("a-waiting", "Created", notes), ("b-settled", "Assigned", {})):
        meta = {"name": name, "namespace": "default", "annotations": annotations}
        document = {"metadata": meta, "spec": spec, "status": {"status": status}}
        api.store.create(f"{ASSIGNED_IDENTITIES.plural}.{GROUP}", document)
    rows = await columns(call, ASSIGNED_IDENTITIES)
    assert rows[0] == ["NAME", "STATUS", "POD", "POD NAMESPACE", "NODE"]
    assert rows[1:] == [
        ["a-waiting", "Created", "web", "ns", "n0"],
        ["b-settled", "Assigned", "web", "ns", "n0"],
    ]
    assert [row[-1] for row in await columns(call, ASSIGNED_IDENTITIES, wide=True)] == ["MESSAGE", WHY, None]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (IDENTITIES, {"type": 1, "ClientID": "c", "clientPassword": {"Name": "n"}, "ADEndpoint": "e"}),
        (BINDINGS, {"azureidentity": "i", "Selector": "s", "Weight": 1}),
        (EXCEPTIONS, {"PodLabels": {"app": "x"}}),
        (ASSIGNED_IDENTITIES, {"AzureIdentityRef": {"spec": {"ClientID": "c"}}, "azurebindingref": {}, "Pod": "web"}),
    ],
    ids=lambda value: value.plural if isinstance(value, Kind) else "",
)
async def test_old_field_names_survive_storage(call: Caller, kind: Kind[Any], spec: dict[str, Any]) -> None:
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": "old"}, "spec": spec}
    made = await call("POST", kind.path("default"), {**document, "status": {"Status": "Created"}})
    assert made.status == 201
    stored = (await call("GET", kind.path("default", "old"))).body
    assert stored["spec"] == spec
    assert kind is not ASSIGNED_IDENTITIES or stored["status"] == {"Status": "Created"}
