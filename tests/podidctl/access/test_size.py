"""A review of the largest supported cluster: time, size of the document, and the outputs."""

import io
import time

import msgspec
import pytest
from rich.console import Console

from podidctl.access.differences import compare
from podidctl.access.outputs import AccessOutput, render
from podidctl.access.policy import parse_policy
from podidctl.access.policy_rules import evaluate
from podidctl.access.review import review
from tests.podidctl.access.generated_cluster import generated_cluster

pytestmark = pytest.mark.measures

REVIEW_SECONDS = 5.0
"""Measured: 0.9 s on the development machine."""
OUTPUT_SECONDS = 20.0
"""Measured: 0.1 s for JSON, 2 s for YAML and the table, 7 s for the wide table."""
POLICY = b"""
version: 1
rules:
  - {rule: identity-only-from, name: a, identities: ["*"], namespaces: ["team-*"]}
  - {rule: no-host-access, name: b, identities: ["*"]}
  - {rule: blast-radius, name: c, of: pod, maxIdentities: 10}
  - {rule: no-wildcard-subjects, name: d}
"""


def test_5000_pods_300_identities_and_500_nodes_are_reviewed_in_seconds() -> None:
    objects = generated_cluster()
    begin = time.process_time()
    found = review(objects)
    assert time.process_time() - begin < REVIEW_SECONDS
    assert (found.summary.pods, found.summary.identities, found.summary.nodes) == (5500, 300, 500)
    assert len(msgspec.json.encode(found)) < 8 << 20
    for output in AccessOutput:
        begin = time.process_time()
        render(found, output, Console(file=io.StringIO(), width=200))
        assert time.process_time() - begin < OUTPUT_SECONDS, output
    begin = time.process_time()
    assert evaluate(found, parse_policy(POLICY), "p").is_violated
    assert compare(found, found).differences == []
    assert time.process_time() - begin < 5.0
