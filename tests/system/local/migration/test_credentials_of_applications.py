"""Identities whose tokens applications use as their credential are not migrated without the operator's decision."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from nmi.tokens.governor import Governor
from nmi.tokens.metrics import ApplicationCredentials, TokenMetrics
from podidctl.migration.federation.planning_input import CredentialUses
from podidctl.migration.federation.state_reader import NAMES_MAX, TOKENS, UNRECORDED, combined, parse
from podidctl.reading.daemons import MetricsPage, Unread
from podidentity.resources import AzureIdentity, Meta
from tests.support.migration.federation_sandbox import Federation, blocking, notes, planned
from tests.support.migration.objects import ID, binding, identity, workload

WHY = "NMI has fetched its token for api://AzureADTokenExchange on n1"


def page(*names: str) -> str:
    """Return /metrics of an NMI that has fetched such a token of each of the identities."""
    record = ApplicationCredentials()
    for name in names:
        namespace, _, own = name.partition("/")
        record.record(AzureIdentity(metadata=Meta(namespace=namespace, name=own)), "api://AzureADTokenExchange")
    registry = CollectorRegistry()
    TokenMetrics(registry).watch(tokens=int, governor=Governor(), application_credentials=record)
    return generate_latest(registry).decode()


def used(*names: str) -> CredentialUses:
    return combined([("n1", MetricsPage(page(*names), 9090)), ("n2", MetricsPage(page(), 9090))])


@pytest.mark.parametrize(("name", "blocks"), [("shop/demo", True), ("shop/other", False), ("other/demo", False)])
def test_a_recorded_identity_is_blocked_and_another_is_not(name: str, *, blocks: bool) -> None:
    obstacles = blocking(planned(workload(account="web"), uses=used(name)))
    assert [obstacle.startswith(WHY) for obstacle in obstacles] == ([True] if blocks else [])


def test_with_the_override_it_is_only_a_note_and_another_name_of_the_identity_is_blocked_too() -> None:
    made = planned(workload(account="web"), uses=used("shop/demo"), ignore_uses=True)
    assert blocking(made) == []
    assert [note for note in notes(made) if note.startswith(WHY)]
    twice = [identity(), binding(), identity("other", resourceID=f"{ID}DEMO"), binding("other", selector="demo")]
    made = planned(workload(account="web"), objects=twice, uses=used("shop/other"))
    assert [step.blocked for step in made.steps] == [True, True]


def test_a_record_that_could_not_be_read_is_a_note_with_the_reason() -> None:
    uses = combined([("n1", Unread("nmi-1", "not allowed: grant get on pods/proxy in namespace x"))])
    made = planned(workload(account="web"), uses=uses)
    assert blocking(made) == []
    assert any("n1: not allowed: grant get on pods/proxy in namespace x" in note for note in notes(made))

    uses = combined([("n1", MetricsPage("aadpodidentity_nmi_index_size 1.0\n", 9090))])
    assert uses.unread["n1"].startswith("the page has no record of credentials of applications; check that port 9090")


def test_more_identities_than_nmi_names_are_a_note() -> None:
    uses = used(*(f"shop/i{number}" for number in range(20)))
    made = planned(workload(account="web"), uses=uses)
    assert list(uses.incomplete) == ["n1"]
    assert any("more identities as credentials than NMI records by name on n1" in note for note in notes(made))


@pytest.mark.parametrize(
    "text", ["", "x 1\n", f"{UNRECORDED} x\n", f'{TOKENS}{{identity="a" 1\n{UNRECORDED} 0\n', f"{UNRECORDED}{{ 0\n"]
)
def test_text_that_is_no_record_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def test_names_of_a_hostile_page_are_bounded() -> None:
    lines = "".join(f'{TOKENS}{{identity="n/i{number}"}} 1\n' for number in range(5000))
    names, further = parse(f"{lines}{UNRECORDED} 0\n")
    assert (len(names), further) == (NAMES_MAX, True)


async def test_apply_refuses_the_identity_until_it_is_overridden(cloud: Federation) -> None:
    async def read_page(_: Any, port: int, path: str) -> tuple[int, str, bytes]:
        assert (port, path) == (9090, "/metrics")
        return 200, "text/plain", page("default/demo").encode()

    cloud.trust()
    cloud.cloud.api.read_with(read_page=read_page)
    tenant = ("--tenant", cloud.cloud.directory.tenant_id)
    answer = await cloud.migrate("apply", *tenant, "-o", "json")
    (outcome,) = answer.document["outcomes"]
    assert (answer.code, outcome["ending"]) == (3, "left as it was")
    assert outcome["why"].startswith("NMI has fetched its token for api://AzureADTokenExchange on n0")
    assert "--ignore-application-credentials" in outcome["do"]
    plan = await cloud.migrate("plan", *tenant)
    assert "AADSTS700231" in plan.out
    answer = await cloud.migrate("apply", *tenant, "--ignore-application-credentials", "-o", "json")
    (outcome,) = answer.document["outcomes"]
    assert outcome["ending"] == "would be changed"
