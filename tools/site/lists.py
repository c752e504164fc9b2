"""Markdown as GitHub reads it, for Python-Markdown, which demands more white space around lists."""

import re
from typing import Final

WIDTH: Final = 4
ITEM: Final = re.compile(r" *(?P<marker>[*+-]|\d+[.)]) +(?=\S)")
FENCE: Final = re.compile(r" *(?P<fence>```+|~~~+)")


def widened(text: str) -> str:
    """Return *text* with the content of list items indented by four columns for each level.

    GitHub indents it by the width of the marker. Code blocks keep the distance of their lines from the fence. An item
    that GitHub reads after a paragraph without an empty line gets one.
    """
    lines: list[str] = []
    columns: list[int] = []  # where the content of each open list item starts
    fence = ""
    blank, after_paragraph = True, True
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        if not line.strip():
            lines.append("")
            blank = after_paragraph = True
            continue
        if fence:
            lines.append(_indented(line[min(indent, columns[-1] if columns else 0) :], len(columns)))
            fence = "" if line.strip() == fence else fence
            continue
        item, opened = ITEM.match(line), FENCE.match(line)
        if item or opened or blank:
            while columns and indent < columns[-1]:
                columns.pop()
        if item and not blank and after_paragraph:
            lines.append("")
        beyond = max(indent - (columns[-1] if columns else 0), 0)
        lines.append(_indented(" " * beyond + line.lstrip(" "), len(columns)))
        if item:
            columns.append(item.end())
        fence = opened["fence"] if opened else ""
        after_paragraph = not item and (after_paragraph or not columns)
        blank = False
    return "\n".join(lines)


def _indented(line: str, levels: int) -> str:
    return " " * (WIDTH * levels) + line
