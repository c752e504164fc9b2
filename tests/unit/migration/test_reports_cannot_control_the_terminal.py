"""Text from objects is printed as text, without markup and without terminal control characters."""

import io
import json

import msgspec
import pytest
import yaml
from rich.console import Console

from podidctl.migration import show
from podidctl.migration.differences import Difference, DifferenceLevel
from podidctl.migration.documents import changes, commands, everything
from podidctl.migration.federation import documents
from podidctl.migration.federation import show as federated
from podidctl.migration.federation.schema import (
    Application,
    ApplicationState,
    ChangeOutcome,
    ChangeResult,
    FederationPlan,
    Remark,
    TokenTest,
    UnchangedIdentity,
)
from podidctl.migration.workload_identity import AUDIENCE
from podidctl.printing import Output, print_document
from tests.support.migration import federation_sandbox
from tests.support.migration.objects import ID, binding, identity, planned, workload

EVIL = "\x1b]0;owned\x07[bold]x[/bold]\x9b2J"
SHOWN = "?]0;owned?[bold]x[/bold]?2J"


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=400, color_system=None)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_of_differences(console: Console) -> None:
    show.report([Difference(DifferenceLevel.REVIEW, EVIL, EVIL, EVIL)], Output.TABLE, console)
    assert output_of(console).count(SHOWN) == 3
    assert "\x1b" not in output_of(console)


def test_a_plan_for_workload_identity(console: Console) -> None:
    made = planned(workload(EVIL, account="web"), workload("lost", label=EVIL))
    show.workload_identity(made, "https://oidc.example.org/", AUDIENCE, console)
    assert SHOWN in output_of(console)
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))


def test_scripts_and_documents_contain_only_printable_characters(console: Console) -> None:
    evil = "\x1b]0;owned\x07\u202e\x7f\U000e0041"
    objects = [identity(resourceID=f"{ID}demo".replace("/g/", "/g(é)/")), binding()]
    for made in (planned(workload(evil, account=evil)), planned(workload(account="web"), objects=objects)):
        document = everything(made, f"https://oidc.example.org/{evil}", AUDIENCE)
        print_document(document, Output.JSON, console)
        assert json.loads(output_of(console)) == document
        print_document(document, Output.YAML, console)
        for text in (changes(made), commands(made, document["issuer"], AUDIENCE), output_of(console)):
            assert all(line.isprintable() for line in text.split("\n"))
        console.file = io.StringIO()


def test_an_identity_with_invalid_ids_requires_manual_work() -> None:
    managed = identity(resourceID=f"{ID}demo".replace("/g/", "/g\x1b/"))
    principal = identity(type=1, tenantID="\x1b", clientPassword={"name": "n"})
    reasons = {
        "no usable AzureIdentity is bound to its label 'demo'": managed,
        "AzureIdentity shop/demo has no usable tenantID": principal,
    }
    for why, wrong in reasons.items():
        made = planned(workload(account="web"), objects=[wrong, binding()])
        assert made.credentials == []
        assert [each.why for each in made.by_hand] == [why]


def test_a_plan_for_federated_identities(console: Console) -> None:
    objects = [identity(namespace="ids"), binding(namespace="ids", selector=EVIL)]
    made = federation_sandbox.planned(
        workload(EVIL, account=EVIL, label=EVIL), objects=objects, issuer=f"https://{EVIL}"
    )
    texts = ("api_version", "kind", "namespace", "name", "account", "identity", "client_id", "tenant_id")
    remarks = [Remark(why=EVIL, do=EVIL)]
    application = Application(**dict.fromkeys(texts, EVIL), state=ApplicationState.MANUAL, remarks=remarks)
    made = msgspec.structs.replace(
        made,
        applications=[application],
        leftovers=[UnchangedIdentity(identity=EVIL, why=EVIL, do=EVIL)],
    )
    federated.plan(made, console, applications=True)
    assert output_of(console).count(SHOWN) > 8
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))
    for text in (documents.az_script(made, made.steps), documents.manifests(made.steps)):
        assert all(line.isprintable() for line in text.split("\n"))
    assert list(yaml.safe_load_all(documents.manifests(made.steps)))[-1]["spec"]["selector"] == EVIL
    console.file = io.StringIO()
    print_document(made, Output.JSON, console)
    assert msgspec.json.decode(output_of(console), type=FederationPlan) == made


def test_the_result_of_switching_identities(console: Console) -> None:
    tried = TokenTest(account=EVIL, bound_to=EVIL, problem=EVIL, do=EVIL)
    federated.outcomes(
        [ChangeOutcome(about=EVIL, ending=ChangeResult.NOT_CHANGED, why=EVIL, do=EVIL, tried=[tried])],
        console,
        dry=False,
    )
    assert output_of(console).count(SHOWN) == 8
    assert not {"\x1b", "\x07", "\x9b"} & set(output_of(console))
