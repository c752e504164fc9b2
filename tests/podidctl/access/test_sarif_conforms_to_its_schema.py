"""Every shape of the SARIF output is valid by the official schema."""

import json
from typing import Any

import pytest
from jsonschema import Draft4Validator, FormatChecker

from podidctl.access.policy_output import SARIF_SCHEMA, PolicyOutput, render_policy
from tests.podidctl.access.policy_results import SHAPES, results
from tests.podidctl.access.sarif_schema import sarif_schema

pytestmark = pytest.mark.plane


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = sarif_schema()
    assert schema["id"] == SARIF_SCHEMA, "the log names the schema that it is tested with"
    return Draft4Validator(schema, format_checker=FormatChecker())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_log_is_valid(shape: Any, validator: Any) -> None:
    validator.validate(json.loads(render_policy(shape(), PolicyOutput.SARIF)))


def test_the_schema_rejects_other_logs(validator: Any) -> None:
    document = json.loads(render_policy(results(), PolicyOutput.SARIF))
    document["runs"][0]["results"][0]["level"] = "fatal"
    assert not validator.is_valid(document)
