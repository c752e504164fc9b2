"""Output formats of the review. `RENDERERS` maps each format to the function that prints it."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from rich.console import Console

from podidctl.access.dot import dot
from podidctl.access.html.document import document
from podidctl.access.schema import AccessReview
from podidctl.access.show import show
from podidctl.report.text import Output, print_document, print_text
from podidentity.exits import StartError


class AccessOutput(StrEnum):
    """Output format."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    DOT = "dot"
    HTML = "html"


Renderer = Callable[[AccessReview, Console], None]


def _write_html(review: AccessReview, to: Console) -> None:
    """Write the file to the output of *to*. Raises StartError for a terminal."""
    if to.is_terminal:
        raise StartError("the HTML is one long file: redirect it, podidctl access -o html > access.html")
    to.file.write(document(review))


RENDERERS: Final[Mapping[AccessOutput, Renderer]] = {
    AccessOutput.TABLE: show,
    AccessOutput.WIDE: lambda review, to: show(review, to, wide=True),
    AccessOutput.JSON: lambda review, to: print_document(review, Output.JSON, to),
    AccessOutput.YAML: lambda review, to: print_document(review, Output.YAML, to),
    AccessOutput.HTML: _write_html,
    AccessOutput.DOT: lambda review, to: print_text(dot(review), to),
}


def render(review: AccessReview, output: AccessOutput, to: Console) -> None:
    """Print *review*."""
    RENDERERS[output](review, to)
