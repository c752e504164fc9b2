"""Misspelled labels and selectors are found, and separate names are not."""

import pytest

from podidctl.diagnosis.similar_texts import similar_texts


@pytest.mark.parametrize(
    ("wanted", "texts", "found"),
    [
        ("aadpodidbinding", ["aadpodidbindng", "app"], ["aadpodidbindng"]),
        ("aadpodidbinding", ["aadPodIdBinding", "aadpodidbindng"], ["aadPodIdBinding"]),
        ("web", ["wbe", "Web ", "wab"], ["Web "]),
        ("web", ["wbe", "weeb", "we", "bew", "database"], ["wbe", "we", "weeb"]),
        ("payments", ["payment", "paymnet", "paid"], ["payment"]),
        ("payments-api", ["paymets-ap", "payroll-api"], ["paymets-ap"]),
        ("team-1", ["team-2", "team-12"], []),
        ("web", ["", "web", "x" * 1_000_000], []),
    ],
)
def test_only_typing_errors_are_similar(wanted: str, texts: list[str], found: list[str]) -> None:
    assert similar_texts(wanted, texts) == found
