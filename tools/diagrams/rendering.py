"""Rendering of one diagram: D2's SVG, then a title, a description and colours for the dark scheme.

D2 measures texts with fonts of its own and embeds them, so that the result is the same on every machine.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from tests.support.testplane import up

DOCS: Final = Path(__file__).parents[2] / "docs"
SOURCES: Final = DOCS / "diagrams"
STYLE: Final = "style"
NAMES: Final = tuple(sorted(source.stem for source in SOURCES.glob("*.d2") if source.stem != STYLE))
HEAD: Final = re.compile(r"# title: (?P<title>.+)\n# description: (?P<description>.+)\n")
RENDER_SECONDS: Final = 100

DARK: Final = {
    "#ffffff": "#0d1117",
    "#1f2328": "#e6edf3",
    "#57606a": "#9198a1",
    "#8c959f": "#6e7681",
    "#dde3e9": "#30363d",
    "#eff2f5": "#161b22",
    "#eaeef2": "#161b22",
    "#f6f8fa": "#1c2129",
    "#dbeafe": "#132a52",
    "#1d4ed8": "#7aa7ff",
}
"""The dark colour for each colour of docs/diagrams/style.d2."""
RULE: Final = re.compile(r"(?P<selector>[^{}]+)\{(?P<body>[^{}]*)\}")
COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}\b")


def picture(name: str) -> Path:
    """Return the path of the picture of diagram *name*. The README shows the overview."""
    return (DOCS if name == "overview" else SOURCES) / f"{name}.svg"


def rendered(name: str) -> str:
    """Return the SVG of diagram *name*. Raises subprocess.CalledProcessError for an invalid source."""
    source = SOURCES / f"{name}.d2"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "diagram.svg")
        command = [up.tool("d2"), source, target]
        subprocess.run(command, check=True, capture_output=True, timeout=RENDER_SECONDS)
        return finished(source.read_text(), target.read_text())


def finished(source: str, svg: str) -> str:
    """Return *svg*, which D2 made from *source*, with a title, a description and dark colours.

    Raises ValueError if the source does not begin with both comments.
    """
    head = HEAD.match(source)
    if head is None:
        raise ValueError("begin the diagram with the lines `# title: …` and `# description: …`")
    svg = svg.removeprefix('<?xml version="1.0" encoding="utf-8"?>')
    svg = re.sub(r' data-d2-version="[^"]*"', "", svg, count=1)
    described = (
        f'<title id="title">{escape(head["title"])}</title><desc id="description">{escape(head["description"])}</desc>'
    )
    dark = f"<style>@media (prefers-color-scheme: dark) {{{''.join(dark_rules(svg))}}}</style>"
    opening, rest = svg.split(">", 1)
    body = rest.removesuffix("\n").removesuffix("</svg>")
    return f'{opening} role="img" aria-labelledby="title description">{described}{body}{dark}</svg>\n'


def dark_rules(svg: str) -> Iterator[str]:
    """Yield the CSS rules with which the colours of *svg* are those of the dark scheme."""
    for sheet in re.findall(r"<style[^>]*>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</style>", svg, re.DOTALL):
        for rule in RULE.finditer(sheet):
            declarations = [declaration for declaration in rule["body"].split(";") if COLOUR.search(declaration)]
            changed = [
                COLOUR.sub(lambda match: DARK.get(match[0].lower(), match[0]), declaration)
                for declaration in declarations
            ]
            if changed != declarations:
                yield f"{rule['selector'].strip()}{{{';'.join(changed)}}}"
    for attribute in ("fill", "stroke"):
        for light, dark in DARK.items():
            if f'{attribute}="{light}"' in svg:
                yield f'[{attribute}="{light}"]{{{attribute}:{dark}}}'
