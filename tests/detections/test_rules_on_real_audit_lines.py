"""Each shipped rule finds what it describes in the log of the real NMI, and nothing else. So does the schema."""

import asyncio
import json
from datetime import timedelta

import jsonschema
import pytest

from tests.detections.engines import (
    DETECTIONS,
    Line,
    earlier,
    kql_alerts,
    kql_alerts_of_container,
    sigma_alerts,
)
from tests.detections.scenario import LOOKALIKE, OWN_API, audit_lines_of_a_node

pytestmark = pytest.mark.programs
KQL = sorted(path.stem for path in (DETECTIONS / "kql").glob("*.kql"))


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return asyncio.run(audit_lines_of_a_node())


def by(lines: list[Line], *pods: str) -> list[Line]:
    return [line for line in lines if line["pod"] in pods]


def test_every_line_conforms_to_the_schema(lines: list[Line]) -> None:
    schema = json.loads((DETECTIONS / "audit.schema.json").read_text(encoding="utf-8"))
    for line in lines:
        jsonschema.validate(line, schema)
    assert {line["outcome"] for line in lines} == {"granted", "exempt", "refused"}


def test_a_pod_refused_repeatedly(lines: list[Line]) -> None:
    assert [each["pod"] for each in sigma_alerts("refused-repeatedly", lines)][:1] == ["default/scanner"]
    (found,) = kql_alerts("refused-repeatedly", [*lines, *by(lines, "default/scanner")])
    assert (found["Pod"], found["Refusals"]) == ("default/scanner", 12)


def test_a_pod_refused_once_or_less_often_is_not_reported(lines: list[Line]) -> None:
    for engine in (sigma_alerts, kql_alerts):
        assert engine("refused-repeatedly", by(lines, "default/once", "default/cart")) == []
    spread = [
        moved
        for minutes, line in enumerate(by(lines, "default/scanner"))
        for moved in earlier([line], timedelta(minutes=5 * minutes))
    ]
    for engine in (sigma_alerts, kql_alerts):
        assert engine("refused-repeatedly", spread) == []


def test_an_identity_used_from_a_new_namespace(lines: list[Line]) -> None:
    before = earlier(by(lines, "default/cart"), timedelta(days=3))
    both = [*before, *by(lines, "kube-public/visitor")]

    assert {each["identity"] for each in sigma_alerts("identity-from-new-namespace", both)} == {"default/cart"}
    (found,) = kql_alerts("identity-from-new-namespace", both)
    assert (found["Identity"], found["Namespace"]) == ("default/cart", "kube-public")
    assert json.loads(found["Pods"]) == ["kube-public/visitor"]


def test_an_identity_in_its_usual_namespaces_is_not_reported(lines: list[Line]) -> None:
    cart = by(lines, "default/cart")
    assert sigma_alerts("identity-from-new-namespace", [*earlier(cart, timedelta(days=3)), *cart]) == []
    assert kql_alerts("identity-from-new-namespace", [*earlier(cart, timedelta(days=3)), *cart]) == []
    known = [*cart, *by(lines, "kube-public/visitor")]
    assert kql_alerts("identity-from-new-namespace", [*earlier(known, timedelta(days=3)), *known]) == []
    assert kql_alerts("identity-from-new-namespace", cart) == [], "an identity without history"


def test_an_exception_in_use(lines: list[Line]) -> None:
    assert [each["pod"] for each in sigma_alerts("exception-in-use", lines)] == ["default/exempt"]
    (found,) = kql_alerts("exception-in-use", lines)
    assert (found["Pod"], found["Node"], found["Requests"]) == ("default/exempt", "node-0", 1)


def test_granted_tokens_and_exceptions_of_the_system_are_not_reported(lines: list[Line]) -> None:
    others = [line for line in lines if line["pod"] != "default/exempt"]
    for engine in (sigma_alerts, kql_alerts):
        assert engine("exception-in-use", others) == []


def test_tokens_for_unusual_audiences(lines: list[Line]) -> None:
    assert sorted(each["resource"] for each in sigma_alerts("unusual-audience", lines)) == [OWN_API, LOOKALIKE]
    assert sorted(each["Audience"] for each in kql_alerts("unusual-audience", lines)) == [OWN_API, LOOKALIKE]


def test_usual_audiences_and_refused_requests_are_not_reported(lines: list[Line]) -> None:
    others = [line for line in lines if line.get("resource") not in {OWN_API, LOOKALIKE}]
    assert by(others, "default/cart")
    assert any(line["outcome"] == "refused" for line in others)
    for engine in (sigma_alerts, kql_alerts):
        assert engine("unusual-audience", others) == []


@pytest.mark.parametrize("name", KQL)
@pytest.mark.parametrize(("namespace", "container"), [("shop", "nmi"), ("kube-system", "other")])
def test_lines_that_another_container_prints_are_ignored(
    lines: list[Line], name: str, namespace: str, container: str
) -> None:
    both = [*earlier(by(lines, "default/cart"), timedelta(days=3)), *lines, *lines]
    assert kql_alerts(name, both), "the same lines of NMI are reported"
    assert kql_alerts_of_container(name, both, namespace=namespace, container=container) == []
