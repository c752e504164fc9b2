"""Rendered text of a set of values as its difference from the text of another set.

A difference lists the changed, new and missing objects. A change within an object starts with unchanged lines that
state its place: the first place after the previous change where these and the removed lines follow each other. There
are no line numbers, so a difference stays the same when other lines of both texts change.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Final

import yaml

SECTION: Final = re.compile(r"^@@ (changed|new|missing): (.+)\n((?:[ +-].*\n)*)", re.MULTILINE)
"""An object in a difference: what happens to it, its title, and its lines with a sign each."""
CHANGE: Final = re.compile(r"((?: .*\n)*)((?:-.*\n)*)((?:\+.*\n)*)")
"""A change in an object: its place, the removed and the added lines."""


def difference(base: str, text: str) -> str:
    """Return the difference of *text* from *base*, both as `rendering.text_of` returns them."""
    return "".join(_sections(_objects(base), _objects(text)))


def patched(base: str, difference: str) -> str:
    """Return the text with this difference from *base*. Raise ValueError if *base* has no place for a change."""
    objects = _objects(base)
    for what, title, body in SECTION.findall(difference):
        if what == "missing":
            del objects[title]
        else:
            objects[title] = list(_changed(objects.get(title, []), body))
    return "".join("---\n" + "".join(objects[title]) for title in sorted(objects, key=_order))


def _objects(text: str) -> dict[str, list[str]]:
    """Return the lines of each object by its title: kind, namespace and name."""
    objects = {}
    for part in re.split(r"^---\n", text, flags=re.MULTILINE)[1:]:
        read = yaml.load(part, yaml.CSafeLoader)
        meta = read["metadata"]
        namespace = f"{meta['namespace']}/" if "namespace" in meta else ""
        objects[f"{read['kind']} {namespace}{meta['name']}"] = part.splitlines(keepends=True)
    return objects


def _order(title: str) -> tuple[str, str, str]:
    kind, _, rest = title.partition(" ")
    namespace, _, name = rest.rpartition("/")
    return kind, namespace, name


def _sections(base: dict[str, list[str]], text: dict[str, list[str]]) -> Iterator[str]:
    for title in sorted({*base, *text}, key=_order):
        old, new = base.get(title, []), text.get(title, [])
        if not new:
            yield f"@@ missing: {title}\n"
        elif old != new:
            yield f"@@ {'changed' if old else 'new'}: {title}\n"
            yield from _changes(old, new)


def _changes(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    position = 0
    for tag, start, end, added, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        place = max(start - 1, position)
        while _find(old, old[place:end], position) != place:
            place -= 1
        yield from (f" {line}" for line in old[place:start])
        yield from (f"-{line}" for line in old[start:end])
        yield from (f"+{line}" for line in new[added:last])
        position = end


def _changed(old: Sequence[str], body: str) -> Iterator[str]:
    position = 0
    for before, removed, added in CHANGE.findall(body):
        unchanged, lines = _unsigned(before), _unsigned(before + removed)
        place = _find(old, lines, position)
        yield from old[position:place]
        yield from unchanged
        yield from _unsigned(added)
        position = place + len(lines)
    yield from old[position:]


def _unsigned(lines: str) -> list[str]:
    return [line[1:] for line in lines.splitlines(keepends=True)]


def _find(lines: Sequence[str], part: Sequence[str], position: int) -> int:
    """Return the first place of *part* in *lines* from *position*. Raise ValueError if there is none."""
    for place in range(position, len(lines) - len(part) + 1):
        if lines[place : place + len(part)] == part:
            return place
    raise ValueError(f"no lines {''.join(part)!r} to change; run: python -m tools.chart")
