"""The tables of flags and metrics equal the programs' definitions."""

import re
import sys
from collections.abc import Iterator, Mapping

import pytest

import mic.startup.settings
import nmi.settings
from benchmarks.report.marks import standing
from podidentity.flags import duration_text
from tools.handbook import known
from tools.handbook.__main__ import DOCS, MAKER, PARTS
from tools.handbook.flags import PROGRAMS, Program

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class Read(Mapping[str, str]):
    """An environment that records the names that are read, with the minimum for a start."""

    def __init__(self, **values: str) -> None:
        self.values_ = values
        self.asked: set[str] = set()

    @override
    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self.values_[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    @override
    def __len__(self) -> int:
        return len(self.values_)


@pytest.mark.parametrize("name", PARTS)
def test_the_generated_part_is_up_to_date(name: str) -> None:
    assert standing(DOCS / name, MAKER) == PARTS[name](), "run `make docs`"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_flag_of_the_go_implementation_exists(program: Program) -> None:
    assert set(program.theirs) <= {flag.name for flag in program.flags}


def test_the_page_lists_exactly_the_variables_that_are_read() -> None:
    page = (DOCS / "flags.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| (both|NMI|MIC) \|", page, re.MULTILINE)
    listed = {
        program: {name for names, who in rows if who in {"both", program} for name in re.findall(r"`(\w+)`", names)}
        for program in ("NMI", "MIC")
    }
    nmis, mics = Read(), Read(MIC_POD_NAMESPACE="default")
    nmi.settings.parse(["--node=n"], nmis)
    mic.startup.settings.parse([], mics)
    assert nmis.asked == listed["NMI"]
    assert mics.asked == listed["MIC"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.1, "100ms"), (1, "1s"), (90, "90s"), (120, "2m"), (5400, "90m"), (7200, "2h")]
)
def test_a_duration_has_the_syntax_of_a_flag(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_every_metric_of_the_go_implementation_is_marked() -> None:
    page = (DOCS / "metrics.md").read_text()
    marked = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and line.endswith("| yes |")}
    assert marked == known.METRICS


def test_links_lead_to_existing_pages() -> None:
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for target in re.findall(r"\]\(((?!https?:|#)[^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
