"""The resources that a plan creates in Azure: which, under which names, and in which order."""

import re
import uuid

import msgspec
import pytest

from nmi.settings import Settings
from podidctl.migration.federation.azure_resources import (
    AzureOptions,
    ResourceType,
    azure_plan,
    binding_name,
    is_principal,
    parse_cluster,
)
from podidctl.migration.federation.runs import plan_options
from podidctl.migration.workload_identity import SUFFIX_MAX
from podidentity.azure.federation import Exchange
from podidentity.azure.resource_ids import UserAssignedIdentity
from podidentity.exits import StartError
from tests.support.migration.azure_plans import BINDINGS, CLUSTER_ID, GRANTS, HOSTILE_ACCOUNT, PRINCIPAL, azure
from tests.support.migration.federation_sandbox import planned
from tests.support.migration.objects import ID, binding, identity, workload

DIRECT = AzureOptions()


def test_each_service_account_has_a_credential_and_an_identity_one_binding_and_one_role_assignment() -> None:
    made = azure("web", "batch", options=DIRECT).resources
    assert [(each.type, each.name, each.properties["subject"]) for each in made] == [
        (ResourceType.CREDENTIAL, "shop-batch", "system:serviceaccount:shop:batch"),
        (ResourceType.CREDENTIAL, "shop-web", "system:serviceaccount:shop:web"),
    ]

    (bound,) = azure(*(f"a{number}" for number in range(30)), options=BINDINGS).resources
    assert (bound.type, bound.parent.text) == (ResourceType.BINDING, CLUSTER_ID)
    assert bound.properties == {"managedIdentity": {"resourceId": f"{ID}demo"}}

    role, *others = azure("web", "batch", options=GRANTS).resources
    assert [each.type for each in (role, *others)] == [ResourceType.ROLE_ASSIGNMENT, *[ResourceType.CREDENTIAL] * 2]
    assert (role.parent.text, role.properties["principalId"]) == (f"{ID}demo", PRINCIPAL)


def test_one_identity_under_two_names_has_each_resource_once() -> None:
    objects = [identity(), binding(), identity("other", resourceID=f"{ID}DEMO"), binding("other", selector="demo")]
    for options, exchange, number in (
        (GRANTS, Exchange.DIRECT, 2),
        (BINDINGS, Exchange.IDENTITY_BINDINGS, 1),
    ):
        made = planned(workload(account="web"), objects=objects, exchange=exchange)
        assert len(azure_plan(made, made.steps, options).resources) == number


def test_two_identities_of_one_service_account_have_their_own_resources() -> None:
    made = azure("web", options=DIRECT, names=("demo", "other")).resources
    assert len({each.parent.key for each in made}) == len({each.symbol for each in made}) == 2
    assert {each.name for each in made} == {"shop-web"}


def test_azure_accepts_the_name_of_an_identity_binding_which_is_that_of_no_other_identity() -> None:
    for name in ("demo", "Demo_1", "1demo", "-", "é", "x" * 128, "a.b(c)"):
        made = binding_name(UserAssignedIdentity(ID + name, "s", "g", name))
        assert re.fullmatch(r"[a-z][a-z0-9]{0,62}", made)
    ids = [f"{ID}{name}" for name in ("a-b", "ab", "a_b")] + [f"{ID.replace('/g/', '/h/')}ab"]
    assert len({binding_name(UserAssignedIdentity(each, "s", "g", each.rpartition("/")[2])) for each in ids}) == 4
    one, other = (binding_name(UserAssignedIdentity(ID + each, "s", "g", each)) for each in ("demo", "DEMO"))
    assert one == other


@pytest.mark.parametrize("account", ["web", HOSTILE_ACCOUNT, "a" * 253, "a.b", "a-b"])
def test_azure_accepts_the_name_of_a_credential_with_and_without_a_suffix_for_the_cluster(account: str) -> None:
    names = []
    for suffix in ("", "east", "x" * SUFFIX_MAX):
        (made,) = planned(workload(account=account), name_suffix=suffix).steps[0].credentials
        assert re.fullmatch(r"[a-zA-Z0-9]{1}[a-zA-Z0-9-_]{2,119}", made.name)
        assert made.name.endswith(suffix)
        names.append(made.name)
    assert len(set(names)) == 3


@pytest.mark.parametrize("suffix", ["a b", "é", "x" * (SUFFIX_MAX + 1), "a\n"])
def test_a_suffix_that_azure_does_not_accept_is_rejected(suffix: str) -> None:
    with pytest.raises(StartError, match="--name-suffix"):
        plan_options({}, name_suffix=suffix)


def test_a_role_assignment_has_a_uuid_that_depends_on_its_properties() -> None:
    (role, _), (other, _) = (azure("web", names=(name,)).resources for name in ("demo", "other"))
    assert uuid.UUID(role.name) != uuid.UUID(other.name)


def test_an_identity_without_a_resource_id_is_omitted_with_the_reason() -> None:
    made = planned(workload(account="web"))
    steps = [msgspec.structs.replace(made.steps[0], resource_id="")]
    plan = azure_plan(made, steps, GRANTS)
    assert plan.resources == []
    assert plan.omitted == ["shop/demo: its AzureIdentity has no usable resourceID; set it, or see -o az"]


def test_a_subject_with_control_characters_is_omitted() -> None:
    plan = azure("web\n}", options=DIRECT)
    assert plan.resources == []
    assert plan.omitted == ["shop/demo: Azure accepts no credential for 'system:serviceaccount:shop:web\\n}'"]


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
    assert is_principal(PRINCIPAL)
    assert not any(map(is_principal, ["", "me", f"{PRINCIPAL}\n", f"{PRINCIPAL}0", PRINCIPAL.replace("-", "")]))


def test_more_than_twenty_credentials_block_only_the_direct_exchange() -> None:
    accounts = [workload(f"w{number}", account=f"a{number}") for number in range(21)]
    for exchange, blocked in ((Exchange.DIRECT, True), (Exchange.IDENTITY_BINDINGS, False)):
        nmi = Settings(node_name="n", federated_identities=True, federated_exchange=exchange)
        made = planned(*accounts, nmis=(nmi,))
        assert made.steps[0].blocked is blocked
