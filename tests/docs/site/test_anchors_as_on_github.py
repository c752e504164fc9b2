"""Headings have the anchors that they have on GitHub, so that links work in both places."""

from tools.site.anchors import Anchors


def slug(heading: str, separator: str) -> str:
    return heading.lower().replace(" ", separator)


def test_a_repeated_heading_gets_a_number() -> None:
    anchors = Anchors(slug)
    assert [anchors(each, "-") for each in ("Of MIC", "NMI", "Of MIC", "Of MIC")] == [
        "of-mic",
        "nmi",
        "of-mic-1",
        "of-mic-2",
    ]


def test_headings_of_another_page_do_not_count() -> None:
    anchors = Anchors(slug)
    anchors("NMI", "-")
    anchors.start_page()
    assert anchors("NMI", "-") == "nmi"
