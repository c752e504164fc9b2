"""Plots contain the measured figures, are the same each time, and name the measurement and the machine."""

import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.text import Annotation, Text

from benchmarks.report.plots import LOOKS, NAMES, draw, plots
from benchmarks.results import BASE, Results
from tests.benchmarks.sample_results import FULL, QUICK

FILES = ["throughput.png", "latency.png", "cpu.png", "memory.png", "controller.png"]


def words(found: Results, file: str) -> str:
    (plot,) = [each for each in plots(found) if each.file == file]
    picture = plot.drawn(found, plot.title)
    return "\n".join(text.get_text() for text in picture.findobj(Text))


def test_plots_are_in_a_directory_named_after_the_file(tmp_path: Path) -> None:
    made = draw(tmp_path / "run.json", FULL)
    assert made == [tmp_path / "run" / file for file in FILES]
    for picture in made:
        body = picture.read_bytes()
        assert body.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", body[16:24])
        assert 800 <= width <= 1_200
        assert 300 <= height <= 1_200


def test_equal_values_result_in_equal_bytes_without_date_or_version(tmp_path: Path) -> None:
    first, again = (draw(tmp_path / name, FULL) for name in ("a.json", "b.json"))
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert not any(chunk in one.read_bytes() for chunk in (b"tEXt", b"tIME", b"Software"))


@pytest.mark.parametrize("file", FILES)
def test_a_plot_names_its_subject_and_the_machine(file: str) -> None:
    text = words(FULL, file)
    (plot,) = [each for each in plots(FULL) if each.file == file]
    assert plot.title in text
    assert "better" in text
    assert "A Processor 9000, virtual, 2 cores, Linux 6.1.0, Python 3.11.7; commit 0123456789, 2026-01-02" in text
    assert "quick run" not in text
    assert "quick run" in words(QUICK, file)


@pytest.mark.parametrize("file", ["throughput.png", "latency.png", "cpu.png"])
def test_every_server_is_named(file: str) -> None:
    text = words(FULL, file)
    for server, name in NAMES.items():
        assert ("nginx" if server == BASE else name) in text


def test_values_are_next_to_their_bars() -> None:
    assert "NMI: 153,270" in words(FULL, "throughput.png")
    assert "209 µs / 334 µs / 605 µs" in words(FULL, "latency.png")
    assert "11.11" in words(FULL, "cpu.png")
    assert "55.4" in words(FULL, "memory.png")
    assert "899" in words(FULL, "controller.png")


def test_a_server_without_its_own_style_is_drawn_too(tmp_path: Path) -> None:
    cases = tuple(replace(case, servers={"another": case.servers["nmi"], **case.servers}) for case in FULL.cases)
    found = replace(FULL, cases=cases)
    assert "another" in words(found, "throughput.png")
    assert draw(tmp_path / "run.json", found)


def test_labels_of_close_curves_do_not_overlap() -> None:
    cases = tuple(replace(case, servers=dict.fromkeys(NAMES, case.servers["nmi"])) for case in FULL.cases)
    (plot, *_) = plots(found := replace(FULL, cases=cases))
    (axes,) = plot.drawn(found, plot.title).axes
    heights = sorted(text.xy[1] for text in axes.texts if isinstance(text, Annotation))
    assert len(heights) == len(NAMES)
    assert all(later - earlier > 5_000 for earlier, later in pairwise(heights))


def test_an_unmeasured_case_has_no_plot() -> None:
    assert [plot.file for plot in plots(replace(FULL, memory=(), controller=()))] == FILES[:3]
    apart = replace(FULL, cases=tuple(replace(case, series=()) for case in FULL.cases))
    assert [plot.file for plot in plots(apart)] == FILES[2:]
    assert plots(replace(FULL, cases=(), memory=(), controller=())) == ()


def test_colours_and_markers_differ() -> None:
    assert len({colour for colour, _ in LOOKS.values()}) == len({shape for _, shape in LOOKS.values()}) == len(LOOKS)


def test_arm_calls_are_drawn_only_if_counted() -> None:
    assert "GETs to Azure" in words(FULL, "controller.png")
    silent = replace(FULL, controller=tuple(replace(row, arm_calls=None) for row in FULL.controller))
    assert "GETs to Azure" not in words(silent, "controller.png")
    none = replace(FULL, controller=tuple(replace(row, arm_calls=0) for row in FULL.controller))
    assert "GETs to Azure" in words(none, "controller.png"), "none at all is a figure"
