"""Parsing of Azure resource ids: spellings of one resource give equal ids, and other resources do not."""

import pytest

from podidentity.azure.resource_ids import (
    TEXT_MAX,
    ScaleSet,
    VirtualMachine,
    parse_provider_id,
    parse_user_assigned,
)

IDENTITY = "/subscriptions/S1/resourcegroups/Rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/Demo"
VM = "/subscriptions/S1/resourceGroups/Rg/providers/Microsoft.Compute/virtualMachines/Node-0"
SET = "/subscriptions/S1/resourceGroups/Rg/providers/Microsoft.Compute/virtualMachineScaleSets/Pool"


def test_an_identity_keeps_its_spelling_and_compares_case_insensitively() -> None:
    first, second = parse_user_assigned(IDENTITY), parse_user_assigned(IDENTITY.upper())
    assert first is not None
    assert second is not None
    assert first.text == IDENTITY
    assert (first.subscription, first.resource_group, first.name) == ("S1", "Rg", "Demo")
    assert first.key == second.key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Demo",
        IDENTITY + "/",
        IDENTITY + "/more",
        IDENTITY + "\n",
        IDENTITY.removeprefix("/"),
        IDENTITY.replace("/Rg/", "//"),
        IDENTITY.replace("Microsoft.ManagedIdentity", "MicrosoftXManagedIdentity"),
        IDENTITY + "x" * TEXT_MAX,
        IDENTITY + "'more",
        IDENTITY + ";more",
        IDENTITY.replace("/Rg/", "/Rg',/"),
        IDENTITY.replace("Demo", "\N{KELVIN SIGN}ey"),
    ],
    ids=[
        *("empty", "name-only", "slash-end", "longer", "newline", "no-slash", "empty-group", "dot", "too-long"),
        *("quoted-as-another", "listed-as-another", "quote-in-group", "another-letter"),
    ],
)
def test_any_other_text_than_an_identity_id_is_rejected(text: str) -> None:
    assert parse_user_assigned(text) is None


def test_a_resource_group_may_contain_non_ascii_letters_and_parentheses() -> None:
    found = parse_user_assigned(IDENTITY.replace("/Rg/", "/Kök_(öst).1/"))
    assert found is not None
    assert found.resource_group == "Kök_(öst).1"


def test_a_vm_is_read_from_its_nodes_provider_id() -> None:
    host = parse_provider_id("azure://" + VM)
    assert host == VirtualMachine(VM, "S1", "Rg", "Node-0")


def test_nodes_of_one_scale_set_have_one_key() -> None:
    first = parse_provider_id(f"azure://{SET}/virtualMachines/0")
    second = parse_provider_id(f"azure://{SET.lower()}/virtualMachines/17")
    assert isinstance(first, ScaleSet)
    assert isinstance(second, ScaleSet)
    assert first.key == second.key
    assert (first.text, first.instance, second.instance) == (SET, "0", "17")


def test_the_text_of_a_host_can_be_parsed() -> None:
    for text in (VM, SET):
        host = parse_provider_id(text)
        assert host is not None
        assert host.text == text


@pytest.mark.parametrize(
    "text",
    ["", "aws:///zone/i-0", "kind://docker/kind/node", "azure://" + SET + "/virtualMachines/", "azure://" + IDENTITY],
    ids=["empty", "another-cloud", "kind", "no-instance", "not-compute"],
)
def test_other_provider_ids_are_no_host(text: str) -> None:
    assert parse_provider_id(text) is None
