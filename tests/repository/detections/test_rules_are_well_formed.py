"""The shipped Sigma rules have the fields of the Sigma specification; rules and schema agree with NMI's code."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import duckdb_kql
import jsonschema
import pytest
import yaml
from sigma.collection import SigmaCollection
from sigma.rule import SigmaRule
from sigma.validation import SigmaValidator
from sigma.validators.core import validators

from _native.ready_responses import Usage
from nmi.identity.request import TokenRequest
from nmi.refusal import Reason, Refusal
from nmi.server.decisions import LINES_PER_SUBJECT, Decisions, Subject
from nmi.server.metrics import _AUDIENCES, OTHER, audience
from nmi.server.target import CanonicalPath
from podidentity.telemetry.logs import FIELDS, JsonFormatter
from tests.repository.detections.engines import DETECTIONS, Line, kql, kql_alerts, sigma_alerts
from tests.unit.nmi.server.test_decision_log import POD

SIGMA = sorted((DETECTIONS / "sigma").glob("*.yml"))
KQL = sorted((DETECTIONS / "kql").glob("*.kql"))
SCHEMA = json.loads((DETECTIONS / "audit.schema.json").read_text(encoding="utf-8"))
SHAPES = {shape["title"]: shape["properties"] for shape in SCHEMA["oneOf"]}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_each_rule_exists_for_both_languages() -> None:
    assert [path.stem for path in SIGMA] == [path.stem for path in KQL]
    assert len(SIGMA) == 4


def test_the_sigma_rules_have_the_recommended_fields_and_pass_the_validators_of_the_sigma_project() -> None:
    for path in SIGMA:
        for rule in documents(path):
            needed = {"title", "id", "status", "description", "author", "date", "level", "falsepositives", "tags"}
            assert needed <= set(rule)
            assert "correlation" in rule or rule["logsource"] == {"product": "aad-pod-identity", "service": "nmi"}
    collection = SigmaCollection.merge([SigmaCollection.from_yaml(path.read_text()) for path in SIGMA])
    downloading = {"attacktag", "d3_fendtag"}
    chosen = [validator for name, validator in validators.items() if name not in downloading]
    issues = SigmaValidator(chosen).validate_rules(cast("Iterator[SigmaRule]", iter(collection.rules)))
    assert [str(issue) for issue in issues] == []


def test_rules_use_only_fields_of_the_schema() -> None:
    schema_fields = {name for properties in SHAPES.values() for name in properties}
    for path in SIGMA:
        for rule in documents(path):
            for search in rule.get("detection", {}).values():
                used = {name.partition("|")[0] for name in search} if isinstance(search, dict) else set()
                assert used <= schema_fields, path.name
            assert set(rule.get("correlation", {}).get("group-by", [])) <= schema_fields
    for path in KQL:
        text = kql(path.stem)
        assert duckdb_kql.validate(text) == []
        assert {
            *re.findall(r"\bLine\.([a-z_]+)", text),
            *re.findall(r'\bLine\["([a-z_]+)"\]', text),
        } <= schema_fields, path.name


def test_the_schema_has_the_closed_sets_of_the_code() -> None:
    reasons = sorted(reason.value for reason in Reason)
    for title in ("refusal", "unanswered", "summary"):
        assert SHAPES[title]["reason"]["enum"] == reasons
    assert SHAPES["refusal"]["path"]["enum"] == [path.value for path in CanonicalPath]
    for properties in SHAPES.values():
        assert set(properties) <= {"time", "level", "logger", "message", "trace", *FIELDS}


def test_the_usual_audiences_are_those_that_the_metrics_name() -> None:
    (rule,) = documents(DETECTIONS / "sigma" / "unusual-audience.yml")
    in_sigma = set(rule["detection"]["usual"]["resource"])
    in_kql = set(re.findall(r'"(https://[^"]+)"', kql("unusual-audience")))
    assert in_kql == {url.rstrip("/") for url in _AUDIENCES.values()}
    assert in_sigma == in_kql | set(_AUDIENCES.values())
    assert OTHER not in {audience(resource) for resource in in_sigma}


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Line]]:
    """Return the lines of the decision log, in the form of NMI's log."""
    caplog.set_level(logging.INFO, "nmi.server.decisions")
    return lambda: [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_summaries_omissions_and_defects_conform_to_the_schema(written: Callable[[], list[Line]]) -> None:
    decisions, usage = Decisions(), Usage()
    for _ in range(3):
        usage.touch()
    refusal = Refusal(Reason.POLICY, "No.", "change the policy")
    for _ in range(2):
        decisions.granted(POD, TokenRequest("https://vault.azure.net"), "shop/id", usage)
        decisions.refused(Subject(POD.call), "other", 403, refusal, None)
    for number in range(LINES_PER_SUBJECT + 1):
        decisions.refused(POD, "other", 403, refusal, TokenRequest(f"https://{number}.example.com"))
    decisions.failed(POD, ValueError("broken"))
    decisions.summarize()
    for _ in range(2):
        decisions.unanswered(POD, TokenRequest("https://vault.azure.net"), refusal, 5.0)
    decisions.summarize()
    lines = written()
    for line in lines:
        jsonschema.validate(line, SCHEMA)

    assert {line["message"] for line in lines} == {
        properties["message"]["const"] for title, properties in SHAPES.items() if title != "exempt"
    }


def test_the_repeats_of_one_refused_request_are_reported(written: Callable[[], list[Line]]) -> None:
    decisions = Decisions()
    refusal = Refusal(Reason.NOTHING_ASSIGNED, "No.", "label the pod")
    for _ in range(5):  # a summary each minute, and one line at the start
        for _ in range(4):
            decisions.refused(POD, "other", 400, refusal, TokenRequest("https://vault.azure.net"))
        decisions.summarize()
    lines = written()

    assert len(lines) == 6
    assert {alert["pod"] for alert in sigma_alerts("refused-repeatedly", lines)} == {"shop/cart"}
    (alert,) = kql_alerts("refused-repeatedly", lines)
    assert alert["Refusals"] == 20
