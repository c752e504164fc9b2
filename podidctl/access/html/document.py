"""The report as one file: Jinja fills the template, and D3 is embedded from its package when the file is written.

The file requests nothing: its Content-Security-Policy permits only the scripts and the style that it contains, by hash.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from podidctl.access.html.model import model, to_json
from podidctl.access.schema import AccessReview
from podidentity.exits import StartError
from podidentity.report import printable
from podidentity.version import VERSION

MISSING: Final = (
    "podidctl access -o html needs Jinja and D3: install the extra report, "
    "pip install 'aad-pod-identity[report]', or use another output format"
)
PROGRAM: Final = ("layout.js", "graph.js", "details.js", "tables.js", "main.js")
"""The parts of the program, in order. They share one function."""


def document(review: AccessReview) -> str:
    """Return the HTML. Raises StartError if the extra is not installed."""
    jinja2, d3 = _libraries()
    library = (Path(d3.BASE_DIR) / "d3.js").read_text(encoding="utf-8")
    parts = "".join(_file(name) for name in PROGRAM)
    program = f'(function () {{\n"use strict";\n{parts}}})();\n'
    style = _file("report.css")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_finalize
    )
    rendered: str = environment.from_string(_file("report.html.jinja")).render(
        review=review,
        version=VERSION,
        d3_version=d3.VERSION,
        policy=content_security_policy(scripts=(library, program), style=style),
        library=_embedded(library),
        program=_embedded(program),
        style=style,
        data=to_json(model(review)),
    )
    return rendered


def _finalize(value: object) -> object:
    """Return the value for the template: texts of objects without control characters, safe text unchanged."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def content_security_policy(*, scripts: tuple[str, ...], style: str) -> str:
    """Return the policy: nothing but these inline scripts and this inline style."""
    allowed = " ".join(_source(each) for each in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_source(style)}; base-uri 'none'; form-action 'none'; "
        "frame-src 'none'; connect-src 'none'; img-src 'none'"
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _libraries() -> tuple[Any, ModuleType]:
    try:
        import jinja2  # noqa: PLC0415 - only in the extra `report`
        from xstatic.pkg import d3  # noqa: PLC0415
    except ImportError as error:
        raise StartError(MISSING) from error
    return jinja2, d3


def _file(name: str) -> str:
    """Return a file of this package."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _embedded(script: str) -> str:
    """Return *script*. Raises ValueError if it would end its element."""
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a script that contains markup cannot be embedded")
    return script
