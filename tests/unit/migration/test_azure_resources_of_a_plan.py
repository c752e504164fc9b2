"""The resources that a plan creates in Azure: which, under which names, and in which order; and each AzureIdentity with
its own exchange: NMI's default, its annotation, or the operator's choice.
"""

import re
import uuid
from typing import Any

import msgspec
import pytest

from nmi.settings import NmiSettings
from podidctl.evaluation.federated_credentials import SUFFIX_MAX
from podidctl.migration.federation.azure_resources import (
    PRINCIPAL as PRINCIPAL_PATTERN,
)
from podidctl.migration.federation.azure_resources import (
    AzureOptions,
    ResourceType,
    azure_plan,
    binding_name,
    parse_cluster,
)
from podidctl.migration.federation.planning_input import PlanOptions
from podidctl.migration.federation.schema import FederationPlan, IdentityState
from podidentity.azure.clouds import PUBLIC
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import UserAssignedIdentity
from podidentity.exits import StartError
from podidentity.resources import EXCHANGE_ANNOTATION
from tests.support.migration.azure_plans import BINDINGS, CLUSTER_ID, GRANTS, PRINCIPAL, azure
from tests.support.migration.federation_sandbox import TENANT, blocking, only, planned
from tests.support.migration.objects import ID, binding, identity, workload

DIRECT = AzureOptions()


def test_each_service_account_has_a_credential_and_an_identity_one_binding_and_one_role_assignment() -> None:
    made = azure("web", "batch", options=DIRECT).resources
    assert [(resource.type, resource.name, resource.properties["subject"]) for resource in made] == [
        (ResourceType.CREDENTIAL, "shop-batch", "system:serviceaccount:shop:batch"),
        (ResourceType.CREDENTIAL, "shop-web", "system:serviceaccount:shop:web"),
    ]

    (bound,) = azure(*(f"a{number}" for number in range(30)), options=BINDINGS).resources
    assert (bound.type, bound.parent.text) == (ResourceType.BINDING, CLUSTER_ID)
    assert bound.properties == {"managedIdentity": {"resourceId": f"{ID}demo"}}

    role, *others = azure("web", "batch", options=GRANTS).resources
    assert [resource.type for resource in (role, *others)] == [
        ResourceType.ROLE_ASSIGNMENT,
        *[ResourceType.CREDENTIAL] * 2,
    ]
    assert (role.parent.text, role.properties["principalId"]) == (f"{ID}demo", PRINCIPAL)


def test_one_identity_under_two_names_has_each_resource_once() -> None:
    objects = [identity(), binding(), identity("other", resourceID=f"{ID}DEMO"), binding("other", selector="demo")]
    for options, exchange, number in (
        (GRANTS, Exchange.DIRECT, 2),
        (BINDINGS, Exchange.IDENTITY_BINDINGS, 1),
    ):
        made = planned(workload(account="web"), objects=objects, exchange=exchange)
        assert len(azure_plan(made, options).resources) == number


def test_two_identities_of_one_service_account_have_their_own_resources() -> None:
    made = azure("web", options=DIRECT, names=("demo", "other")).resources
    assert len({resource.parent.key for resource in made}) == len({resource.symbol for resource in made}) == 2
    assert {resource.name for resource in made} == {"shop-web"}


def test_azure_accepts_the_name_of_an_identity_binding_which_is_that_of_no_other_identity() -> None:
    for name in ("demo", "Demo_1", "1demo", "-", "é", "x" * 128, "a.b(c)"):
        made = binding_name(UserAssignedIdentity(ID + name, "s", "g", name))
        assert re.fullmatch(r"[a-z][a-z0-9]{0,62}", made)
    ids = [f"{ID}{name}" for name in ("a-b", "ab", "a_b")] + [f"{ID.replace('/g/', '/h/')}ab"]
    assert len({binding_name(UserAssignedIdentity(text, "s", "g", text.rpartition("/")[2])) for text in ids}) == 4
    one, other = (binding_name(UserAssignedIdentity(ID + name, "s", "g", name)) for name in ("demo", "DEMO"))
    assert one == other


@pytest.mark.parametrize("suffix", ["a b", "é", "x" * (SUFFIX_MAX + 1), "a\n"])
def test_a_suffix_that_azure_does_not_accept_is_rejected(suffix: str) -> None:
    with pytest.raises(StartError, match="--name-suffix"):
        PlanOptions(PUBLIC, name_suffix=suffix)


def test_a_role_assignment_has_a_uuid_that_depends_on_its_properties() -> None:
    (role, _), (other, _) = (azure("web", names=(name,)).resources for name in ("demo", "other"))
    assert uuid.UUID(role.name) != uuid.UUID(other.name)


def test_an_identity_without_a_resource_id_is_omitted_with_the_reason() -> None:
    made = planned(workload(account="web"))
    steps = [msgspec.structs.replace(made.steps[0], resource_id="")]
    plan = azure_plan(msgspec.structs.replace(made, steps=steps), GRANTS)
    assert plan.resources == []
    assert plan.comments[-1] == "shop/demo: its AzureIdentity has no usable resourceID; set it, or see -o az"


def test_a_subject_with_control_characters_is_omitted() -> None:
    plan = azure("web\n}", options=DIRECT)
    assert plan.resources == []
    assert plan.comments[-1] == "shop/demo: Azure accepts no credential for 'system:serviceaccount:shop:web\\n}'"


@pytest.mark.parametrize(
    "text",
    ["", "c", f"{CLUSTER_ID}/", f"{CLUSTER_ID}\n", f"{ID}demo", CLUSTER_ID.replace("/s/", "//"), CLUSTER_ID * 100],
)
def test_text_that_is_no_cluster_is_rejected_and_a_cluster_is_accepted_in_any_case(text: str) -> None:
    assert parse_cluster(text) is None

    made = parse_cluster(CLUSTER_ID.upper())
    assert made is not None
    assert (made.subscription, made.resource_group, made.name) == ("S", "G", "C")


def test_only_an_object_id_is_a_principal() -> None:
    assert PRINCIPAL_PATTERN.fullmatch(PRINCIPAL)
    assert not any(
        map(PRINCIPAL_PATTERN.fullmatch, ["", "me", f"{PRINCIPAL}\n", f"{PRINCIPAL}0", PRINCIPAL.replace("-", "")])
    )


def test_more_than_twenty_credentials_block_only_the_direct_exchange() -> None:
    accounts = [workload(f"w{number}", account=f"a{number}") for number in range(21)]
    reason = "it would need 21 federated credentials, and Azure allows 20"
    for exchange, reasons in ((Exchange.DIRECT, [reason]), (Exchange.IDENTITY_BINDINGS, [])):
        nmi = NmiSettings(node_name="n", federated_identities=True, federated_exchange=exchange)
        assert blocking(planned(*accounts, nmis=(nmi,))) == reasons
    assert blocking(planned(*accounts[:20])) == []


BOUND = Exchange.IDENTITY_BINDINGS


def nmi(exchange: Exchange = Exchange.DIRECT, node: str = "n", *, annotation: bool = True) -> NmiSettings:
    return NmiSettings(
        node_name=node,
        federated_identities=True,
        federated_exchange=exchange,
        federated_exchange_annotation=annotation,
    )


def annotated(exchange: str, name: str = "demo", **spec: Any) -> dict[str, Any]:
    return identity(name, annotations={EXCHANGE_ANNOTATION: exchange}, **spec)


def plan(*nmis: NmiSettings, objects: list[dict[str, Any]], **more: Any) -> FederationPlan:
    bindings = [binding(document["metadata"]["name"], selector="demo") for document in objects]
    return planned(workload(account="web"), objects=[*objects, *bindings], nmis=nmis, **more)


def resources(made: FederationPlan) -> list[tuple[str, ResourceType]]:
    return [(resource.about, resource.type) for resource in azure_plan(made, BINDINGS).resources]


@pytest.mark.parametrize("default", Exchange)
def test_an_annotation_chooses_the_other_exchange_of_one_identity(default: Exchange) -> None:
    (other,) = set(Exchange) - {default}
    made = plan(nmi(default), objects=[annotated(other, "chosen"), identity("usual")])
    assert [(step.name, step.exchange, step.blocked) for step in made.steps] == [
        ("chosen", other, False),
        ("usual", default, False),
    ]
    directly, by_binding = ("chosen", "usual") if default is BOUND else ("usual", "chosen")
    assert resources(made) == [
        (f"shop/{by_binding}", ResourceType.BINDING),
        (f"shop/{directly}", ResourceType.CREDENTIAL),
    ]


def test_an_annotation_that_nmi_does_not_allow_is_an_obstacle() -> None:
    made = plan(nmi(annotation=False), objects=[annotated(BOUND)])
    (reason,) = blocking(made)
    assert "chooses identityBindings by the annotation" in reason
    assert "federated.exchangeAnnotation" in reason
    assert blocking(plan(nmi(annotation=True), objects=[annotated(BOUND)])) == []


def test_an_annotation_counts_without_a_known_nmi_and_an_invalid_one_is_an_obstacle() -> None:
    for nmis in ([], [nmi()]):
        (reason,) = blocking(plan(*nmis, objects=[annotated("bindings")]))
        assert "with 'bindings': write direct or identityBindings" in reason

    assert only(plan(objects=[annotated(BOUND)])).exchange is BOUND
    assert only(plan(objects=[identity()])).exchange is Exchange.DIRECT


def test_nodes_that_differ_are_an_obstacle_unless_the_identity_is_annotated() -> None:
    made = plan(nmi(node="a"), nmi(BOUND, node="b"), objects=[identity()])
    assert blocking(made) == ["NMI's exchange for it differs between nodes: direct on a; identityBindings on b"]
    assert blocking(plan(nmi(BOUND, node="a"), nmi(BOUND, node="b"), objects=[identity()])) == []

    made = plan(nmi(node="a"), nmi(BOUND, node="b"), objects=[annotated(BOUND)])
    assert (only(made).exchange, blocking(made)) == (BOUND, [])


@pytest.mark.parametrize("given", Exchange)
def test_another_exchange_than_nmis_is_planned_and_blocks_the_switch(given: Exchange) -> None:
    (nmis,) = set(Exchange) - {given}
    made = plan(nmi(nmis), objects=[identity()], exchange=given)
    expected = ResourceType.BINDING if given is BOUND else ResourceType.CREDENTIAL
    assert resources(made) == [("shop/demo", expected)]
    assert blocking(made) == [f"this plan is for the exchange {given}, and NMI would use {nmis}"]
    assert blocking(plan(nmi(given), objects=[identity()], exchange=given)) == []


def test_an_identity_created_with_type_3_needs_a_binding_also_for_its_move() -> None:
    made = plan(nmi(BOUND), objects=[identity(type=3, tenantID=TENANT)])
    assert (only(made).state, only(made).blocked) == (IdentityState.FEDERATED, False)
    assert resources(made) == [("shop/demo", ResourceType.BINDING)]

    federated = [identity(type=3, tenantID=TENANT)]
    assert resources(plan(nmi(), objects=federated, exchange=BOUND)) == [("shop/demo", ResourceType.BINDING)]
    unchanged = plan(nmi(), objects=federated)
    assert (unchanged.steps, [leftover.identity for leftover in unchanged.leftovers]) == ([], ["shop/demo"])


def test_only_a_plan_with_credentials_has_a_remark_about_the_issuer() -> None:
    def issuer_remarks(*objects: dict[str, Any]) -> list[str]:
        made = plan(nmi(), objects=list(objects), issuer="")
        return [remark.why for remark in made.remarks if "issuer" in remark.why]

    assert issuer_remarks(annotated(BOUND)) == []
    assert len(issuer_remarks(annotated(BOUND), identity("usual"))) == 1
