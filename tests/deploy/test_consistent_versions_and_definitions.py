"""Facts that two files repeat are equal in both."""

import re

import yaml
from packaging.version import Version

from podidentity.version import VERSION
from tools.chart.rendering import CHART, ROOT


def test_the_charts_definitions_are_those_of_the_repository() -> None:
    ours = {file.name: file.read_text() for file in (ROOT / "deploy" / "crds").iterdir()}
    assert {file.name: file.read_text() for file in (CHART / "crds").iterdir()} == ours


def test_the_chart_and_the_demo_install_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION
    demo = yaml.safe_load((ROOT / "deploy" / "demo" / "pod.yaml").read_text())
    assert [each["image"] for each in demo["spec"]["containers"]] == [f"aad-pod-identity/demo:{VERSION}"]


def test_the_version_is_valid_as_semver_as_a_wheels_version_and_as_an_image_tag() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(-rc\.\d+)?", VERSION)
    assert str(Version(VERSION)) == VERSION.replace("-rc.", "rc")


def test_the_chart_of_a_release_candidate_is_a_release_candidate() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert chart.partition("-")[2] == VERSION.partition("-")[2]
    assert Version(chart) > Version("4.1.18"), "the Go implementation's last chart"
