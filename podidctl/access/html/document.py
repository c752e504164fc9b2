"""The report as one file: Jinja fills the template, and D3 is embedded from its package when the file is written.

The file requests nothing: its Content-Security-Policy permits only the scripts and the style that it contains, by hash.
The report's program reads the fields of `-o json`, with references as indexes, so that the file stays small. Names are
untrusted: they only get into the file as JSON (`to_json`) and as escaped text of the template.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from podidctl.access.schema import (
    AccessReview,
    AttachedIdentity,
    Binding,
    Grant,
    Host,
    Identity,
    NodeAccess,
    PodAccess,
    Reach,
    short_name,
)
from podidentity.exits import StartError, installation
from podidentity.report import ReportModel, printable
from podidentity.version import VERSION

MISSING: Final = f"podidctl access -o html needs Jinja and D3: {installation('report')}; or use another output format"
PROGRAM: Final = ("layout.js", "graph.js", "details.js", "tables.js", "main.js")
"""The parts of the program, in order. They share one function."""

Document = dict[str, Any]
ABSENT: Final = -1
"""The index of an object that the review does not have."""


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
    allowed = " ".join(_source(script) for script in scripts)
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


class _References:
    """The parts of the document, which refer to each other by index."""

    def __init__(self, review: AccessReview) -> None:
        self.identities = _index(identity.full_name for identity in review.identities)
        # Identities without an AzureIdentity, which can be attached to several hosts.
        self.others = _index(
            dict.fromkeys(
                attached.resource_id for host in review.hosts for attached in host.attached if not attached.identities
            )
        )
        self.bindings = _index(binding.full_name for binding in review.bindings)
        self.pods = _index(pod.full_name for pod in review.pods)
        self.nodes = _index(node.name for node in review.nodes)
        self.hosts = _index(host.id for host in review.hosts)

    def identity(self, identity: Identity) -> Document:
        return _part(identity, name=identity.full_name, hosts=_known(self.hosts, identity.hosts))

    def binding(self, binding: Binding) -> Document:
        problem = f"critical: it {binding.critical}" if binding.critical else binding.problem
        identity = self.identities.get(binding.identity, ABSENT)
        return _part(binding, name=binding.full_name, identity=identity, target=binding.identity, problem=problem)

    def pod(self, pod: PodAccess) -> Document:
        node = self.nodes.get(pod.node, ABSENT)
        return _part(pod, name=pod.full_name, node=node, takesOver=pod.takes_over_node)

    def grant(self, grant: Grant) -> Document:
        return _part(
            grant,
            pod=self.pods.get(grant.pod, ABSENT),
            identity=self.identities.get(grant.identity, ABSENT),
            binding=self.bindings.get(grant.binding, ABSENT),
        )

    def node(self, node: NodeAccess) -> Document:
        radius = {"today": self._reach(node.blast_radius.today), "federated": self._reach(node.blast_radius.federated)}
        return _part(node, host=self.hosts.get(node.host, ABSENT), blastRadius=radius)

    def _reach(self, reach: Reach) -> Document:
        identities, others = _known(self.identities, reach.identities), _known(self.others, reach.others)
        return _part(reach, identities=identities, others=others)

    def host(self, host: Host) -> Document:
        return _part(host, name=short_name(host.id), attached=list(map(self._attached, host.attached)))

    def _attached(self, attached: AttachedIdentity) -> Document:
        other = ABSENT if attached.identities else self.others[attached.resource_id]
        return _part(attached, identities=_known(self.identities, attached.identities), other=other)


def model(review: AccessReview) -> Document:
    """Return the document for `to_json`, without control characters in its texts: the parts of the review with the
    fields of `-o json`, and with indexes instead of names.
    """
    references = _References(review)
    made: Document = _printable(
        {
            "identities": list(map(references.identity, review.identities)),
            "others": [{"name": short_name(name), "resourceId": name} for name in references.others],
            "bindings": list(map(references.binding, review.bindings)),
            "pods": list(map(references.pod, review.pods)),
            "grants": list(map(references.grant, review.grants)),
            "nodes": list(map(references.node, review.nodes)),
            "hosts": list(map(references.host, review.hosts)),
            "subjects": [_part(subject, name=subject.full_name) for subject in review.subjects],
        }
    )
    return made


def _part(part: ReportModel, **changes: object) -> Document:
    """Return the fields of *part* as in `-o json`, with *changes*."""
    fields: Document = msgspec.to_builtins(part)
    return fields | changes


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return {name: _printable(item) for name, item in value.items()} if isinstance(value, dict) else value


def _index(names: Iterable[str]) -> dict[str, int]:
    return {name: at for at, name in enumerate(names)}


def _known(index: Mapping[str, int], names: Iterable[str]) -> list[int]:
    """Return the indexes of those *names* that are in a review of a part of the cluster."""
    return [index[name] for name in names if name in index]


def to_json(document: Document) -> str:
    """Return *document* as JSON that cannot end the script element that contains it, nor start markup in it."""
    text = msgspec.json.encode(document).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
