"""`helm test` runs the demo as a pod with the binding's label, with flags that the demo accepts."""

import pytest

from podidentity_demo.settings import parse
from tools.chart.rendering import GOLDEN, HELMS, render


@pytest.mark.parametrize("helm", HELMS)
def test_the_demo_accepts_its_flags_and_ends(helm: str) -> None:
    (pod,) = (each for each in render(GOLDEN / "helm-test.values.yaml", helm=helm) if each["kind"] == "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["metadata"]["labels"]["aadpodidbinding"] == "demo"
    assert pod["spec"]["restartPolicy"] == "Never"
    settings = parse(pod["spec"]["containers"][0]["args"], {})
    assert settings.once
    assert settings.client_id == "d3a0c11e-0000-4000-8000-000000000001"


def test_there_is_no_test_without_a_selector() -> None:
    assert [each for each in render() if each["kind"] == "Pod"] == []
