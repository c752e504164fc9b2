"""Every metric in the documentation exists in a scrape with exactly that name."""

import re
from pathlib import Path

import pytest

from podidentity.telemetry.metrics import expose
from tests.docs.sentences import ROOT
from tools.handbook.metrics import mic_registry, nmi_registry, shown

PAGES = sorted((ROOT / "docs").glob("*.md"))
NAMES = {each.name for made in (nmi_registry, mic_registry) for each in shown(expose(made()).decode())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"aadpodidentity_[a-z0-9_]+", page.read_text()))
    assert named <= NAMES
