"""The values files in the documentation have values that the chart knows, and it renders with them."""

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.operators_shell import blocks_of
from tools.chart.rendering import render

BLOCKS = blocks_of((ROOT / "docs" / "install-on-aks.md").read_text(), "yaml")


def test_the_page_has_values() -> None:
    keys = [set(yaml.safe_load(block)) for block in BLOCKS]
    assert keys.count({"adminsecret"}) == 2
    assert {"nmi", "mic"} in keys


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_chart_renders_with_the_values(block: str) -> None:
    objects = render(given=block)
    if "adminsecret" in block:
        (secret,) = (each for each in objects if each["kind"] == "Secret")
        assert {"ClientID", "ClientSecret", "TenantID", "ResourceGroup"} <= set(secret["data"])
        assert ("UseMSI" in secret["data"]) is ("useMSI" in block)
