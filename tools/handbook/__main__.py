"""`python -m tools.handbook` writes the generated parts of the documents."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks.report.marks import put
from tools.handbook import flags, metrics

MAKER: Final = "tools.handbook"
DOCS: Final = Path(__file__).parents[2] / "docs"
PARTS: Final[Mapping[str, Callable[[], str]]] = {"flags.md": flags.made, "metrics.md": metrics.made}


def main() -> None:
    """Update the generated part of each document."""
    for name, made in PARTS.items():
        put(DOCS / name, MAKER, made())


if __name__ == "__main__":
    main()
