"""Files that hold the same fact twice hold it alike."""

import yaml

from podidentity.version import VERSION
from tools.chart.rendering import CHART, ROOT


def test_the_charts_definitions_are_those_of_the_repository() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "deploy" / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == ours


def test_the_chart_installs_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION
