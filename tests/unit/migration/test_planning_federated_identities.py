"""Plans: the users of each identity, the federated credentials for Azure, and the obstacles. Rollbacks restore every
changed field, except fields that were changed since.
"""

import copy
import json
import shlex
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nmi.settings import NmiSettings
from podidctl.facts.model import ServerState
from podidctl.migration.federation.azure_resources import AzurePlan
from podidctl.migration.federation.json_patches import (
    FORMER_ANNOTATION,
    PUT_ANNOTATION,
    UnpatchableError,
    put_patch,
    recorded_identity,
    removal_patch,
    rollback_patch,
    switch_patch,
)
from podidctl.migration.federation.output import manifests
from podidctl.migration.federation.resource_formats import az_script
from podidctl.migration.federation.schema import IdentityState
from podidentity_sandbox.kubeapi.patching import json_patch
from podidentity_sandbox.kubeapi.statuses import StatusError
from tests.support.migration.federation_sandbox import FEDERATING, TENANT, assigned, blocking, notes, only, planned
from tests.support.migration.objects import BOUND, ID, binding, cron_job, exception, identity, pod, workload

NOTHING = AzurePlan([], [])
NOTED = {"aadpodidentity.k8s.io/migrated-from": "{}"}


def running(name: str = "web-1", account: str = "web", **spec: Any) -> Any:
    made = pod(name, owner="apps/v1 Deployment web", account=account, **spec)
    placed = msgspec.structs.replace(made.spec, node_name="n")
    return msgspec.structs.replace(
        made, spec=placed, metadata=msgspec.structs.replace(made.metadata, uid=f"uid-{name}")
    )


def test_an_identity_is_planned_with_the_accounts_that_use_it_and_az_commands_for_their_credentials() -> None:
    made = planned(workload(account="web"), cron_job(account="nightly"), pods=[running()])
    step = only(made)
    assert (step.state, step.tenant, step.blocked) == (IdentityState.TO_DO, TENANT, False)
    assert [(account.full_name, account.workloads, account.pod, account.pod_uid) for account in step.accounts] == [
        ("shop/nightly", ["CronJob shop/nightly"], "", ""),
        ("shop/web", ["Deployment shop/web"], "web-1", "uid-web-1"),
    ]
    assert notes(made) == ["no pod has service account shop/nightly now: its token is tested without a pod"]

    made = planned(workload(account="web"), pods=[running()])
    (line,) = [line for line in az_script(made, NOTHING).splitlines() if line.startswith("az ")]
    assert shlex.split(line) == [
        *("az", "identity", "federated-credential", "create", "--subscription", "s", "--resource-group", "g"),
        *("--identity-name", "demo", "--name", "shop-web", "--issuer", "https://oidc.example.org/cluster/"),
        *("--subject", "system:serviceaccount:shop:web", "--audiences", "api://AzureADTokenExchange"),
    ]

    twice = [*BOUND, identity("other", resourceID=f"{ID}DEMO"), binding("other", selector="demo")]
    made = planned(workload(account="web"), objects=twice)
    assert len(made.steps) == 2
    assert az_script(made, NOTHING).count("\naz ") == 1


def test_the_audience_is_that_of_nmi_unless_another_is_given() -> None:
    china = NmiSettings(node_name="n", federated_identities=True, federated_audience="api://AzureADTokenExchangeChina")
    assert planned(workload(account="web"), nmis=(china,)).audience == "api://AzureADTokenExchangeChina"
    given = planned(workload(account="web"), nmis=(FEDERATING,), audience="api://Other")
    assert blocking(given) == ["NMI requests tokens with audience api://AzureADTokenExchange, not api://Other"]


@pytest.mark.parametrize(
    ("objects", "more", "reason"),
    [
        (BOUND, {"tenant": ""}, "its tenant is not known"),
        (BOUND, {"tenant": "no tenant"}, "AzureIdentity shop/demo has tenant 'no tenant'"),
        (BOUND, {"tenant": "adfs"}, "has tenant adfs"),
        ([identity(clientID=" "), binding()], {}, "has no usable clientID"),
        ([identity(auxiliaryTenantIDs=["t"]), binding()], {}, "has auxiliaryTenantIDs"),
        ([identity(adEndpoint="https://evil.example/"), binding()], {}, "nothing was sent to it"),
        (BOUND, {"server": ServerState("v1.29.9")}, "Kubernetes is v1.29.9"),
        (BOUND, {"nmis": (FEDERATING, NmiSettings(node_name="m"))}, "NMI runs without --federated-identities on m"),
        (BOUND, {"forbidden": {("shop", "web")}}, "NMI may not request tokens of service account shop/web"),
        ([*BOUND, exception(aadpodidbinding="demo")], {}, "Deployment shop/web (exception shop/e) gets its tokens"),
    ],
)
def test_an_obstacle_is_reported(objects: list[dict[str, Any]], more: dict[str, Any], reason: str) -> None:
    (obstacle,) = blocking(planned(workload(account="web"), pods=[running()], objects=objects, **more))
    assert reason in obstacle


def test_pods_with_the_host_network_and_no_use_are_obstacles() -> None:
    made = workload(account="web")
    template = made.spec.template
    host = msgspec.structs.replace(template.spec, host_network=True)
    spec = msgspec.structs.replace(made.spec, template=msgspec.structs.replace(template, spec=host))
    (obstacle,) = blocking(planned(msgspec.structs.replace(made, spec=spec)))
    assert obstacle.startswith("Deployment shop/web (host network) gets its tokens from IMDS directly")

    assert blocking(planned()) == ["no workload or pod of its namespace has it now, so no token can be tested"]


def test_the_default_service_account_causes_a_warning() -> None:
    made = planned(workload(), pods=[running(account="default")])
    assert blocking(made) == []
    assert "has service account default, as all pods that name none" in notes(made)[0]


def test_an_unknown_state_is_reported_and_blocks_nothing() -> None:
    unknown: dict[str, Any] = {
        "nmis": (),
        "nmi_unknown": "nmi-1: unknown flag",
        "rights_unknown": "reviews is forbidden",
    }
    made = planned(workload(account="web"), pods=[running()], issuer="", **unknown)
    assert blocking(made) == []
    assert len(notes(made)) == 3
    made = planned(workload(account="web"), pods=[running()], issuer="https://kubernetes.default.svc")
    assert blocking(made) == []
    assert notes(made) == [
        "issuer https://kubernetes.default.svc: Azure must read its keys, but it is not a public https address"
    ]


def test_pods_of_another_namespace_are_an_obstacle_until_they_have_copies() -> None:
    elsewhere = [identity(namespace="ids"), binding(namespace="ids")]
    made = planned(workload(account="web"), pods=[running()], objects=elsewhere)
    assert only(made).accounts == []
    assert "pods of other namespaces have it (shop), but type 3 serves only its own namespace" in blocking(made)
    copies = list(yaml.safe_load_all(manifests(made.steps)))
    assert [
        (document["kind"], document["metadata"]["namespace"], document["metadata"]["name"]) for document in copies
    ] == [
        ("AzureIdentity", "shop", "demo"),
        ("AzureIdentityBinding", "shop", "demo"),
    ]

    own, old = planned(workload(account="web"), pods=[running()], objects=[*elsewhere, *copies]).steps[::-1]
    assert (own.full_name, own.blocked, [account.full_name for account in own.accounts]) == (
        "shop/demo",
        False,
        ["shop/web"],
    )
    assert old.copies == []
    assert [remark.why for remark in old.remarks] == [
        "no workload or pod of its namespace has it now, so no token can be tested"
    ]


def test_a_copy_uses_no_existing_name() -> None:
    taken = [identity(namespace="ids"), binding(namespace="ids"), identity(clientID="another")]
    made = planned(workload(account="web"), objects=taken)
    copied = list(yaml.safe_load_all(manifests(made.steps)))
    assert [document["metadata"]["name"] for document in copied] == ["demo-ids", "demo"]
    assert copied[1]["spec"] == {"azureIdentity": "demo-ids", "selector": "demo"}
    forced = planned(workload(account="web"), objects=taken[:2], force_namespaced=True)
    assert only(forced).copies == [], "pods of other namespaces never had the identity"


def test_identities_without_a_vm_are_left_alone() -> None:
    others = [
        identity("federated", type=3, tenantID=TENANT),
        identity("secret", type=1, tenantID=TENANT, clientPassword={"name": "n"}),
        identity("wrong", resourceID="nonsense"),
        identity("unbound"),
    ]
    made = planned(objects=others)
    assert made.steps == []
    assert [leftover.identity for leftover in made.leftovers] == [
        "shop/federated",
        "shop/secret",
        "shop/unbound",
        "shop/wrong",
    ]


def test_a_switched_identity_is_reported_as_switched_after_its_pods_have_followed() -> None:
    objects = [identity(type=3, tenantID=TENANT, annotations=NOTED), binding()]

    def state(*assigned: Any, **more: Any) -> IdentityState:
        made = planned(workload(account="web"), pods=[running()], objects=objects, assigned=assigned, **more)
        return only(made).state

    assert state() is IdentityState.UNFINISHED
    assert state(assigned("web-1", 0)) is IdentityState.UNFINISHED
    assert state(assigned("web-1", 3, "Created")) is IdentityState.UNFINISHED
    assert state(assigned("web-1", 3)) is IdentityState.SWITCHED
    assert (
        state(assigned("web-1", 0, deletionTimestamp="2026-01-01T00:00:00Z"), assigned("web-1", 3))
        is IdentityState.SWITCHED
    )
    assert state(managed=True) is IdentityState.SWITCHED


def test_an_identity_reset_by_its_manifest_must_be_switched_again() -> None:
    objects = [identity(annotations=NOTED), binding()]
    made = planned(workload(account="web"), pods=[running()], objects=objects)
    assert only(made).state is IdentityState.TO_DO
    assert notes(made) == ["it was set back to type 0 after the switch"]


MICROSOFT = "72f988bf-0000-0000-0000-2d7cd011db47"
LABELS = ("spec", "template", "metadata", "labels")
ANNOTATIONS = ("metadata", "annotations")
names = st.text(min_size=1, max_size=8)
texts = st.dictionaries(names, st.text(max_size=8), max_size=4)
specs = st.dictionaries(names | st.sampled_from(["tenantID", "clientID", "adEndpoint"]), st.text(max_size=8)).map(
    lambda spec: {"type": 0, **spec}
)


def stored(document: dict[str, Any], **meta: Any) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["metadata"] |= {"uid": "u", "resourceVersion": "7", **meta}
    return made


def without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """An empty map and none are one thing to the API server."""
    meta = {name: value for name, value in document["metadata"].items() if value != {}}
    return {**document, "metadata": meta}


DEMO = stored(identity())


def test_a_switched_identity_is_marked_and_keeps_all_other_fields() -> None:
    made = json_patch(DEMO, switch_patch(DEMO, MICROSOFT))
    assert made["spec"] == {**DEMO["spec"], "type": 3, "tenantID": MICROSOFT}
    assert json.loads(made["metadata"]["annotations"][FORMER_ANNOTATION]) == {
        "spec": DEMO["spec"],
        "tenantID": MICROSOFT,
    }


@given(specs, texts | st.none())
def test_reverting_restores_the_former_state(spec: dict[str, Any], annotations: dict[str, str] | None) -> None:
    meta = {"name": "demo", "namespace": "shop", "uid": "u", "resourceVersion": "7"}
    before = {"metadata": {**meta, **({} if annotations is None else {"annotations": annotations})}, "spec": spec}
    try:
        operations = switch_patch(before, MICROSOFT)
    except UnpatchableError:  # field spellings from before v1.6.0
        return
    after = json_patch(before, operations)
    patch, kept = rollback_patch(after)
    assert kept == ()
    assert without_empty(json_patch(after, patch)) == without_empty(before)


def test_a_later_change_by_another_writer_is_kept_and_reported_and_of_the_type_refused() -> None:
    made = json_patch(DEMO, switch_patch(DEMO, MICROSOFT))
    made["spec"] |= {"clientID": "another", "adEndpoint": "https://login.microsoftonline.us/"}
    del made["spec"]["resourceID"]  # which type 3 does not need
    patch, kept = rollback_patch(made)
    assert kept == ("adEndpoint", "clientID")
    spec = json_patch(made, patch)["spec"]
    assert (spec["type"], spec["clientID"], spec["resourceID"]) == (0, "another", DEMO["spec"]["resourceID"])
    assert "tenantID" not in spec
    made["spec"]["type"] = 1
    with pytest.raises(UnpatchableError, match="it was set to type 1 since"):
        rollback_patch(made)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"spec": {"type": 1}, "tenantID": "t"}', "[" * 9000, '{"spec": 1}'])
def test_an_unreadable_note_reverts_nothing(note: str) -> None:
    made = stored(identity(type=3), annotations={FORMER_ANNOTATION: note})
    with pytest.raises(UnpatchableError, match="manually"):
        rollback_patch(made)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (identity(type=3, tenantID=MICROSOFT), "not of type 0 any more"),
        ({**identity(), "spec": {"type": 0, "clientid": "c"}}, "field spellings from before v1.6.0"),
        ({**identity(), "spec": None}, "has no spec"),
    ],
)
def test_an_identity_that_is_a_different_one_now_is_left_alone(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnpatchableError, match=reason):
        switch_patch(stored(document), MICROSOFT)


@pytest.mark.parametrize("change", [{"uid": "v"}, {"resourceVersion": "8"}])
def test_no_patch_applies_to_an_object_that_changed_after_the_read(change: dict[str, str]) -> None:
    other = stored(identity(), **change)
    with pytest.raises(StatusError):
        json_patch(other, switch_patch(DEMO, MICROSOFT))


@pytest.mark.parametrize("path", [LABELS, ANNOTATIONS])
@given(values=st.dictionaries(names, st.text(max_size=8), min_size=1, max_size=3), there=texts)
def test_added_fields_are_removed(path: tuple[str, ...], values: dict[str, str], there: dict[str, str]) -> None:
    before = stored({"metadata": {"name": "web"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}}}}})
    place = before["spec"]["template"]["metadata"]["labels"] if path == LABELS else before["metadata"]
    place.update(there if path == LABELS else {"annotations": there})
    made = json_patch(before, put_patch(before, "shop/demo", path, values))
    assert recorded_identity(made["metadata"]["annotations"]) == "shop/demo"
    again = json_patch(made, put_patch(made, "shop/demo", path, values))
    for marked in (made, again):
        assert without_empty(json_patch(marked, removal_patch(marked, path))) == without_empty(before)


def test_a_label_changed_by_another_writer_stays() -> None:
    before = stored({"metadata": {"name": "web"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}}}}})
    made = json_patch(before, put_patch(before, "shop/demo", LABELS, {"use": "true"}))
    made["spec"]["template"]["metadata"]["labels"]["use"] = "false"
    after = json_patch(made, removal_patch(made, LABELS))
    assert after["spec"]["template"]["metadata"]["labels"] == {"app": "web", "use": "false"}
    assert PUT_ANNOTATION not in after["metadata"].get("annotations", {})


@pytest.mark.parametrize("note", ["", "1", '{"identity": "a", "put": {"a": 1}, "before": {}}'])
def test_an_unreadable_mark_requires_manual_work(note: str) -> None:
    with pytest.raises(UnpatchableError, match="manually"):
        removal_patch(stored({"metadata": {"annotations": {PUT_ANNOTATION: note}}}), ANNOTATIONS)
