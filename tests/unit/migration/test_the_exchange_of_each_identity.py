"""Each AzureIdentity is planned with its own exchange: NMI's default, its annotation, or the operator's choice."""

from typing import Any

import pytest

from nmi.settings import Settings
from podidctl.migration.federation.azure_resources import ResourceType, azure_plan
from podidctl.migration.federation.schema import FederationPlan, IdentityState
from podidentity.azure.federation import Exchange
from podidentity.resources import EXCHANGE_ANNOTATION
from tests.support.migration.azure_plans import BINDINGS
from tests.support.migration.federation_sandbox import TENANT, only, planned
from tests.support.migration.objects import binding, identity, workload

BOUND = Exchange.IDENTITY_BINDINGS


def nmi(exchange: Exchange = Exchange.DIRECT, node: str = "n", *, annotation: bool = True) -> Settings:
    return Settings(
        node_name=node,
        federated_identities=True,
        federated_exchange=exchange,
        federated_exchange_annotation=annotation,
    )


def annotated(exchange: str, name: str = "demo", **spec: Any) -> dict[str, Any]:
    return identity(name, annotations={EXCHANGE_ANNOTATION: exchange}, **spec)


def plan(*nmis: Settings, objects: list[dict[str, Any]], exchange: Exchange | None = None) -> FederationPlan:
    bindings = [binding(each["metadata"]["name"], selector="demo") for each in objects]
    return planned(workload(account="web"), objects=[*objects, *bindings], nmis=nmis, exchange=exchange)


def obstacles(made: FederationPlan) -> list[str]:
    return [each.why for each in only(made).remarks if each.blocks]


def resources(made: FederationPlan) -> list[tuple[str, ResourceType]]:
    return [(each.about, each.type) for each in azure_plan(made, made.steps, BINDINGS).resources]


@pytest.mark.parametrize("default", Exchange)
def test_an_annotation_chooses_the_other_exchange_of_one_identity(default: Exchange) -> None:
    (other,) = set(Exchange) - {default}
    made = plan(nmi(default), objects=[annotated(other, "chosen"), identity("usual")])
    assert [(each.name, each.exchange, each.blocked) for each in made.steps] == [
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
    (why,) = obstacles(made)
    assert "chooses identityBindings by the annotation" in why
    assert "federated.exchangeAnnotation" in why
    assert obstacles(plan(nmi(annotation=True), objects=[annotated(BOUND)])) == []


def test_an_annotation_counts_without_a_known_nmi_and_an_invalid_one_is_an_obstacle() -> None:
    for nmis in ([], [nmi()]):
        (why,) = obstacles(plan(*nmis, objects=[annotated("bindings")]))
        assert "with 'bindings': write direct or identityBindings" in why

    assert only(plan(objects=[annotated(BOUND)])).exchange is BOUND
    assert only(plan(objects=[identity()])).exchange is Exchange.DIRECT


def test_nodes_that_differ_are_an_obstacle_unless_the_identity_is_annotated() -> None:
    made = plan(nmi(node="a"), nmi(BOUND, node="b"), objects=[identity()])
    assert obstacles(made) == ["NMI's exchange for it differs between nodes: direct on a; identityBindings on b"]
    assert obstacles(plan(nmi(BOUND, node="a"), nmi(BOUND, node="b"), objects=[identity()])) == []

    made = plan(nmi(node="a"), nmi(BOUND, node="b"), objects=[annotated(BOUND)])
    assert (only(made).exchange, obstacles(made)) == (BOUND, [])


@pytest.mark.parametrize("given", Exchange)
def test_another_exchange_than_nmis_is_planned_and_blocks_the_switch(given: Exchange) -> None:
    (nmis,) = set(Exchange) - {given}
    made = plan(nmi(nmis), objects=[identity()], exchange=given)
    expected = ResourceType.BINDING if given is BOUND else ResourceType.CREDENTIAL
    assert resources(made) == [("shop/demo", expected)]
    assert obstacles(made) == [f"this plan is for the exchange {given}, and NMI would use {nmis}"]
    assert obstacles(plan(nmi(given), objects=[identity()], exchange=given)) == []


def test_an_identity_created_with_type_3_needs_a_binding_also_for_its_move() -> None:
    made = plan(nmi(BOUND), objects=[identity(type=3, tenantID=TENANT)])
    assert (only(made).state, only(made).blocked) == (IdentityState.FEDERATED, False)
    assert resources(made) == [("shop/demo", ResourceType.BINDING)]

    federated = [identity(type=3, tenantID=TENANT)]
    assert resources(plan(nmi(), objects=federated, exchange=BOUND)) == [("shop/demo", ResourceType.BINDING)]
    unchanged = plan(nmi(), objects=federated)
    assert (unchanged.steps, [each.identity for each in unchanged.leftovers]) == ([], ["shop/demo"])


def test_only_a_plan_with_credentials_has_a_remark_about_the_issuer() -> None:
    def issuer_remarks(*objects: dict[str, Any]) -> list[str]:
        bindings = [binding(each["metadata"]["name"], selector="demo") for each in objects]
        made = planned(workload(account="web"), objects=[*objects, *bindings], nmis=(nmi(),), issuer="")
        return [each.why for each in made.remarks if "issuer" in each.why]

    assert issuer_remarks(annotated(BOUND)) == []
    assert len(issuer_remarks(annotated(BOUND), identity("usual"))) == 1
