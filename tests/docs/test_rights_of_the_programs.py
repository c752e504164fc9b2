"""docs/security.md states each right of MIC and NMI in the chart, with its reason, and no other."""

from tests.docs.threat_tables import ROOT
from tests.rights import granted

TITLE = "### Rights of MIC and NMI"


def test_the_table_has_exactly_the_rights_of_the_chart() -> None:
    section = (ROOT / "docs" / "security.md").read_text().partition(f"{TITLE}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")][2:]
    stated = {
        (program.strip(), verb, resource)
        for program, resources, verbs, reason in rows
        if reason.strip()
        for resource in resources.split(", ")
        for verb in verbs.split(", ")
    }
    assert stated == {(each.program, each.verb, each.resource.partition(".")[0]) for each in granted()}
