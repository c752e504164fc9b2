"""Misspelled labels and selectors are found, and separate names are not."""

import random

import pytest

from podidctl.diagnosis.similar_texts import COMPARED_MAX, _distance, similar_texts


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


def test_few_of_thousands_of_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def distance(one: str, other: str) -> int:
        compared.append(other)
        return _distance(one, other)

    monkeypatch.setattr("podidctl.diagnosis.similar_texts._distance", distance)
    wanted = "payments-production-" + "x" * 43
    other = [f"{number:05}-" + "abcdefghij" * 5 for number in range(10_000)]
    anagrams = ["".join(random.Random(number).sample(wanted, len(wanted))) for number in range(2_000)]
    assert wanted[:-1] in similar_texts(wanted, [wanted[:-1], *other])
    assert compared == [wanted[:-1]]
    assert similar_texts(wanted, anagrams) == []
    assert len(compared) == 1 + COMPARED_MAX


def test_each_text_with_two_typing_errors_is_found() -> None:
    draw = random.Random(1)
    wanted = "payments-api"
    for _ in range(500):
        text = list(wanted)
        for _ in range(2):
            at = draw.randrange(1, len(text) - 1)
            match draw.randrange(4):
                case 0:
                    del text[at]
                case 1:
                    text.insert(at, draw.choice("xyz"))
                case 2:
                    text[at] = draw.choice("xyz")
                case _:
                    text[at - 1 : at + 1] = text[at - 1 : at + 1][::-1]
        word = "".join(text)
        # Two errors at one place can have the distance three.
        expected = [word] if word != wanted and _distance(wanted, word) <= 2 else []
        assert similar_texts(wanted, [word]) == expected
