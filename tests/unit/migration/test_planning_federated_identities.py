"""Plans: the users of each identity, the federated credentials for Azure, and the obstacles."""

import shlex
from typing import Any

import msgspec
import pytest
import yaml

from nmi.settings import Settings
from podidctl.migration.federation.documents import az_script, manifests
from podidctl.migration.federation.schema import IdentityState
from tests.support.migration.federation_sandbox import FEDERATING, TENANT, assigned, blocking, notes, only, planned
from tests.support.migration.objects import BOUND, ID, binding, cron_job, exception, identity, pod, workload

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
    assert [(each.full_name, each.workloads, each.pod, each.pod_uid) for each in step.accounts] == [
        ("shop/nightly", ["CronJob shop/nightly"], "", ""),
        ("shop/web", ["Deployment shop/web"], "web-1", "uid-web-1"),
    ]
    assert notes(made) == ["no pod has service account shop/nightly now: its token is tested without a pod"]

    made = planned(workload(account="web"), pods=[running()])
    (line,) = [each for each in az_script(made, made.steps).splitlines() if each.startswith("az ")]
    assert shlex.split(line) == [
        *("az", "identity", "federated-credential", "create", "--subscription", "s", "--resource-group", "g"),
        *("--identity-name", "demo", "--name", "shop-web", "--issuer", "https://oidc.example.org/cluster/"),
        *("--subject", "system:serviceaccount:shop:web", "--audiences", "api://AzureADTokenExchange"),
    ]

    twice = [*BOUND, identity("other", resourceID=f"{ID}DEMO"), binding("other", selector="demo")]
    made = planned(workload(account="web"), objects=twice)
    assert len(made.steps) == 2
    assert az_script(made, made.steps).count("\naz ") == 1


def test_the_audience_is_that_of_nmi_unless_another_is_given() -> None:
    china = Settings(node_name="n", federated_identities=True, federated_audience="api://AzureADTokenExchangeChina")
    assert planned(workload(account="web"), nmis=(china,)).audience == "api://AzureADTokenExchangeChina"
    given = planned(workload(account="web"), nmis=(FEDERATING,), audience="api://Other")
    assert blocking(given) == ["NMI requests tokens with audience api://AzureADTokenExchange, not api://Other"]


@pytest.mark.parametrize(
    ("objects", "more", "why"),
    [
        (BOUND, {"tenant": ""}, "its tenant is not known"),
        (BOUND, {"tenant": "no tenant"}, "AzureIdentity shop/demo has tenant 'no tenant'"),
        (BOUND, {"tenant": "adfs"}, "has tenant adfs"),
        ([identity(clientID=" "), binding()], {}, "has no usable clientID"),
        ([identity(auxiliaryTenantIDs=["t"]), binding()], {}, "has auxiliaryTenantIDs"),
        ([identity(adEndpoint="https://evil.example/"), binding()], {}, "nothing was sent to it"),
        (BOUND, {"version": "v1.29.9"}, "Kubernetes is v1.29.9"),
        (BOUND, {"nmis": (FEDERATING, Settings(node_name="m"))}, "NMI runs without --federated-identities on m"),
        (BOUND, {"forbidden": {("shop", "web")}}, "NMI may not request tokens of service account shop/web"),
        ([*BOUND, exception(aadpodidbinding="demo")], {}, "Deployment shop/web (exception shop/e) gets its tokens"),
    ],
)
def test_an_obstacle_is_reported(objects: list[dict[str, Any]], more: dict[str, Any], why: str) -> None:
    (obstacle,) = blocking(planned(workload(account="web"), pods=[running()], objects=objects, **more))
    assert why in obstacle


def test_pods_with_the_host_network_too_many_accounts_and_no_use_are_obstacles() -> None:

    made = workload(account="web")
    template = made.spec.template
    host = msgspec.structs.replace(template.spec, host_network=True)
    spec = msgspec.structs.replace(made.spec, template=msgspec.structs.replace(template, spec=host))
    (obstacle,) = blocking(planned(msgspec.structs.replace(made, spec=spec)))
    assert obstacle.startswith("Deployment shop/web (host network) gets its tokens from IMDS directly")

    twenty = [workload(f"web-{number}", account=f"web-{number}") for number in range(21)]
    assert blocking(planned(*twenty[:20])) == []
    assert blocking(planned(*twenty)) == ["it would need 21 federated credentials, and Azure allows 20"]

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
        "version": "",
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
    assert [(each["kind"], each["metadata"]["namespace"], each["metadata"]["name"]) for each in copies] == [
        ("AzureIdentity", "shop", "demo"),
        ("AzureIdentityBinding", "shop", "demo"),
    ]

    own, old = planned(workload(account="web"), pods=[running()], objects=[*elsewhere, *copies]).steps[::-1]
    assert (own.full_name, own.blocked, [each.full_name for each in own.accounts]) == (
        "shop/demo",
        False,
        ["shop/web"],
    )
    assert old.copies == []
    assert [each.why for each in old.remarks] == [
        "no workload or pod of its namespace has it now, so no token can be tested"
    ]


def test_a_copy_uses_no_existing_name() -> None:
    taken = [identity(namespace="ids"), binding(namespace="ids"), identity(clientID="another")]
    made = planned(workload(account="web"), objects=taken)
    copied = list(yaml.safe_load_all(manifests(made.steps)))
    assert [each["metadata"]["name"] for each in copied] == ["demo-ids", "demo"]
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
    assert [each.identity for each in made.leftovers] == ["shop/federated", "shop/secret", "shop/unbound", "shop/wrong"]


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
