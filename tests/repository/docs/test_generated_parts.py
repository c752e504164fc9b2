"""The tables of flags and metrics equal the programs' definitions."""

import re
from collections.abc import Iterator, Mapping

import pytest
from typing_extensions import override

import mic.startup.settings
import nmi.settings
from benchmarks.report.marks import standing
from tools.handbook import known
from tools.handbook.__main__ import DOCS, MAKER, PARTS
from tools.handbook.flags import PROGRAMS, Program


class Read(Mapping[str, str]):
    """An environment that records the names that are read. Of these it has the minimum for a start."""

    def __init__(self) -> None:
        self.requested: set[str] = set()

    @override
    def __getitem__(self, name: str) -> str:
        self.requested.add(name)
        return {"MIC_POD_NAMESPACE": "default"}[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(())

    @override
    def __len__(self) -> int:
        return 0


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
    nmis, mics = Read(), Read()
    nmi.settings.parse(["--node=n"], nmis)
    mic.startup.settings.parse([], mics)
    assert nmis.requested == listed["NMI"]
    assert mics.requested == listed["MIC"]


def test_every_metric_of_the_go_implementation_is_marked() -> None:
    page = (DOCS / "metrics.md").read_text()
    marked = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and line.endswith("| yes |")}
    assert marked == known.METRICS
