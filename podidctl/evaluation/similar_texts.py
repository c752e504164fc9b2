"""Texts that differ from a wanted one by case or by a typing error. Pure."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from podidentity.resources import BINDING_LABEL

LABEL_BEGIN: Final = "aadpod"
"""The begin of keys that are meant to be the label of bindings."""

_LONG: Final = 8
"""Length from which two typing errors are possible."""
_TEXT_MAX: Final = 63
"""Length of a label's value. A longer text is no typing error."""
COMPARED_MAX: Final = 1000
"""Texts whose distance is computed. Tenants choose the selectors of bindings, of which a cluster can have thousands."""
_DIGITS: Final = re.compile(r"\d+")


def similar_texts(wanted: str, texts: Iterable[str]) -> list[str]:
    """Return the *texts* that may be a misspelled *wanted*, the closest first.

    If some differ only by case or blanks, no others are returned. Texts that differ only by a number, as `team-1` and
    `team-2`, are separate names.
    """
    candidates = sorted({text for text in texts if text.strip() and text != wanted and len(text) <= _TEXT_MAX})
    if folded := [text for text in candidates if _folded(text) == _folded(wanted)]:
        return folded
    most = 2 if len(wanted) > _LONG else 1
    letters = Counter(_folded(wanted))
    near = [text for text in candidates if not _is_numbered(wanted, text) and _may_be_near(letters, text, most)]
    distances = [(_distance(_folded(wanted), _folded(text)), text) for text in near[:COMPARED_MAX]]
    return [text for distance, text in sorted(distances) if distance <= most]


def meant_as_label(keys: Iterable[str]) -> list[str]:
    """Return the label *keys* that are meant to be the one of bindings, the closest first."""
    several = list(keys)
    begun = (key for key in several if key.startswith(LABEL_BEGIN) and key != BINDING_LABEL and "/" not in key)
    return similar_texts(BINDING_LABEL, several) or sorted(begun)


def _may_be_near(letters: Counter[str], text: str, most: int) -> bool:
    """Return whether at most *most* errors can turn *letters* into those of *text*: one error changes one letter. This
    takes a hundredth of the time of the distance.
    """
    its = Counter(_folded(text))
    return max((letters - its).total(), (its - letters).total()) <= most


def _folded(text: str) -> str:
    return text.strip().lower()


def _is_numbered(first: str, second: str) -> bool:
    return _DIGITS.sub("0", first) == _DIGITS.sub("0", second)


def _distance(first: str, second: str) -> int:
    """Return the number of inserted, missing, replaced or exchanged characters."""
    before, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for at, letter in enumerate(first, start=1):
        last, before, row = before, row, [at]
        for number, there in enumerate(second, start=1):
            cost = min(before[number] + 1, row[number - 1] + 1, before[number - 1] + (letter != there))
            # The row before the last one is that of a text without the two exchanged letters.
            exchanged = at > 1 and number > 1 and letter == second[number - 2] and first[at - 2] == there
            row.append(min(cost, last[number - 2] + 1) if exchanged else cost)
    return row[-1]
