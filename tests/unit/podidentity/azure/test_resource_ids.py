"""Parsing of Azure resource ids: spellings of one resource give equal ids, and other resources do not."""

import sys

import pytest

from podidentity.azure.resource_ids import (
    TEXT_MAX,
    ScaleSet,
    VirtualMachine,
    id_key,
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
        IDENTITY.replace("Demo", ".."),
        IDENTITY.replace("Demo", "Dem\N{LATIN SMALL LETTER O WITH DIAERESIS}"),
    ],
)
def test_any_other_text_than_an_identity_id_is_rejected(text: str) -> None:
    assert parse_user_assigned(text) is None


def test_a_resource_group_may_contain_non_ascii_letters_and_parentheses() -> None:
    parsed = parse_user_assigned(IDENTITY.replace("/Rg/", "/Kök_(öst).1/"))
    assert parsed is not None
    assert parsed.resource_group == "Kök_(öst).1"


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


NOT_PERMITTED = (
    "%?#;\\ @:\N{SUPERSCRIPT TWO}\N{COMBINING DIAERESIS}\N{FULLWIDTH FULL STOP}\N{FRACTION SLASH}\N{ZERO WIDTH SPACE}"
)


@pytest.mark.parametrize("part", ["S1", "Rg", "Node-0", "Pool"])
@pytest.mark.parametrize("name", [".", "..", "...", "a.", "x" * 91, *(f"a{character}b" for character in NOT_PERMITTED)])
def test_a_name_that_azure_does_not_permit_names_no_host(part: str, name: str) -> None:
    text = SET if part == "Pool" else VM
    assert parse_provider_id(f"azure://{text}") is not None
    assert parse_provider_id(f"azure://{text.replace(f'/{part}', f'/{name}')}") is None


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("MC_group.1_(a)-b_westeurope", "aks-pool-12345678-vmss"),
        ("\N{LATIN CAPITAL LETTER O WITH DIAERESIS}st-\N{CJK UNIFIED IDEOGRAPH-4E2D}", "n"),
        ("-", "flex_1a2b3c4d"),
        ("..a", "node.example"),
        ("x" * 90, "x" * 80),
    ],
)
def test_every_name_that_azure_permits_names_a_host(group: str, name: str) -> None:
    for text, kind in ((VM.replace("Node-0", name), VirtualMachine), (SET.replace("Pool", name), ScaleSet)):
        host = parse_provider_id("azure://" + text.replace("Rg", group))
        assert isinstance(host, kind)
        assert (host.resource_group, host.name) == (group, name)


@pytest.mark.parametrize("word", ["subscriptions", "resourceGroups", "providers", "Microsoft", "virtualMachines"])
def test_a_similar_letter_in_a_fixed_part_names_no_host(word: str) -> None:
    for similar in (
        word.replace("s", "\N{LATIN SMALL LETTER LONG S}"),
        word.replace("i", "\N{LATIN SMALL LETTER DOTLESS I}"),
    ):
        assert similar == word or parse_provider_id(f"azure://{VM.replace(word, similar)}") is None


def test_capital_and_small_letters_have_one_key_whatever_is_next_to_them() -> None:
    checked = 0
    for number in range(sys.maxunicode + 1):
        capital = chr(number)
        small = capital.lower()
        if small == capital or len(small) > 1 or parse_provider_id("azure://" + VM.replace("Rg", capital)) is None:
            continue
        checked += 1
        for group in ("{0}", "{0}{0}", "a{0}", "{0}a", "{0}-", "a{0}-1"):
            first, second = (parse_provider_id(VM.replace("Rg", group.format(text))) for text in (capital, small))
            assert first is not None
            assert second is not None
            assert first.key == second.key == id_key(first.text)
    assert checked > 1000


def test_both_small_letters_of_sigma_have_one_key() -> None:
    """They have one capital letter, by which Azure compares."""
    ids = [parse_provider_id(VM.replace("Rg", group)) for group in ("ΟΔΟΣ", "οδος", "οδοσ")]
    assert len({id_.key for id_ in ids if id_ is not None}) == 1


def test_no_two_permitted_letters_that_azure_distinguishes_have_one_key() -> None:
    """Azure compares by single upper-case letters; the four letters with a title case have one of their own."""
    keys: dict[str, str] = {}
    for number in range(0x80, sys.maxunicode + 1):
        letter = chr(number)
        if letter.lower() == letter.upper():
            continue
        host = parse_provider_id("azure://" + VM.replace("Rg", letter))
        if host is not None and host.resource_group == letter:
            assert keys.setdefault(host.key, letter.upper()) == letter.upper()
    assert len(keys) > 1000
    for ascii_letter in "kK":
        host = parse_provider_id("azure://" + VM.replace("Rg", ascii_letter))
        assert host is not None
        assert host.key not in keys
