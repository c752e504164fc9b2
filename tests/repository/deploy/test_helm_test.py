"""`helm test` runs the canary of `podidctl verify` on one node, and the demo with flags that it accepts."""

import pytest

from podidctl.verify.pod import METADATA_HOST, METADATA_PORT, NmiTemplate, manifest
from podidentity.resources import BINDING_LABEL
from podidentity_demo.settings import parse
from tests.support.chart_objects import HELMS
from tools.chart.rendering import CANARY, GOLDEN, ROOT, render


@pytest.mark.parametrize("helm", HELMS)
def test_the_demo_accepts_its_flags_and_ends_and_the_canary_equals_that_of_verify(helm: str) -> None:
    objects = render(GOLDEN / "helm-test.values.yaml", helm=helm)
    pods = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Pod"}
    settings = parse(pods["aad-pod-identity-test"]["spec"]["containers"][0]["args"], {})
    assert settings.once_seconds is not None
    assert settings.client_id == "d3a0c11e-0000-4000-8000-000000000001"

    canary, options = pods["aad-pod-identity-redirect-test"], {"image": "i", "request_id": "helm-test"}
    of_verify = manifest(name="c", namespace="n", node="", template=NmiTemplate(), deadline_seconds=9, **options)
    ours, theirs = canary["spec"]["containers"][0], of_verify["spec"]["containers"][0]
    assert BINDING_LABEL not in canary["metadata"]["labels"]
    assert [word.strip() for word in ours["command"]] == [word.strip() for word in theirs["command"] + theirs["args"]]
    assert ours["command"][4:6] == [METADATA_HOST, str(METADATA_PORT)]
    assert ours["resources"] == theirs["resources"]


def test_the_charts_copy_of_the_program_is_up_to_date() -> None:
    assert CANARY.read_text() == (ROOT / "podidctl" / "verify" / "canary.py").read_text(), "run: python -m tools.chart"
