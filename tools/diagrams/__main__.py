"""Render all diagrams: `python -m tools.diagrams`. The first run builds D2 with Go (two minutes)."""

from tools.diagrams.rendering import NAMES, picture, rendered

if __name__ == "__main__":
    for name in NAMES:
        picture(name).write_text(rendered(name))
