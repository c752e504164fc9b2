"""The report as one file: Jinja fills the template, and D3 is embedded from its package when the file is written.

The file requests nothing: its Content-Security-Policy permits only the scripts and the style that it contains, by hash.
The report's program reads the review with references as indexes, so that the file stays small. Names are untrusted:
they only get into the file as JSON (`to_json`) and as escaped text of the template.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from podidctl.access.schema import AccessReview, AttachedIdentity, Reach
from podidentity.exits import StartError
from podidentity.report import printable
from podidentity.version import VERSION

MISSING: Final = (
    "podidctl access -o html needs Jinja and D3: install the extra report, "
    "pip install 'aad-pod-identity[report]', or use another output format"
)
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


def model(review: AccessReview) -> Document:
    """Return the document for `to_json`, without control characters in its texts."""
    identities = _index(identity.full_name for identity in review.identities)
    others = _index(
        dict.fromkeys(
            attached.resource_id for host in review.hosts for attached in host.attached if not attached.identities
        )
    )
    bindings = _index(binding.full_name for binding in review.bindings)
    pods = _index(pod.full_name for pod in review.pods)
    nodes = _index(node.name for node in review.nodes)
    hosts = _index(host.id for host in review.hosts)

    def within(reach: Reach) -> Document:
        return {
            "identities": _at(identities, reach.identities),
            "others": _at(others, reach.others),
            "system": reach.system_assigned,
            "complete": reach.complete,
        }

    def explained(attached: AttachedIdentity) -> list[Any]:
        """Return AzureIdentities, else the identity without one, and the reason for the attachment."""
        other = ABSENT if attached.identities else others.get(attached.resource_id, ABSENT)
        return [_at(identities, attached.identities), other, attached.explained.value]

    made: Document = _printable(
        {
            "identities": [
                {
                    "name": identity.full_name,
                    "type": identity.type,
                    "client": identity.client_id,
                    "resource": identity.resource_id,
                    "namespaced": identity.namespaced,
                    "secret": identity.secret,
                    "problem": identity.problem,
                    "hosts": _at(hosts, identity.hosts),
                    "hostPods": identity.host_pods,
                }
                for identity in review.identities
            ],
            "others": [{"name": _last(resource_id), "resource": resource_id} for resource_id in others],
            "bindings": [
                {
                    "name": binding.full_name,
                    "identity": identities.get(binding.identity, ABSENT),
                    "target": binding.identity,
                    "selector": binding.selector,
                    "problem": f"critical: it {binding.critical}" if binding.critical else binding.problem,
                }
                for binding in review.bindings
            ],
            "pods": [
                {
                    "name": pod.full_name,
                    "node": nodes.get(pod.node, ABSENT),
                    "label": pod.label,
                    "account": pod.service_account,
                    "workload": pod.workload,
                    "program": pod.program,
                    "host": [[access.way.value, access.detail] for access in pod.host_access],
                    "undecided": [[access.way.value, access.detail, access.why] for access in pod.undecided_access],
                    "takesOver": pod.takes_over_node,
                    "rights": [action.value for action in pod.rights],
                    "note": pod.note,
                }
                for pod in review.pods
            ],
            "grants": [
                [
                    pods.get(grant.pod, ABSENT),
                    identities.get(grant.identity, ABSENT),
                    grant.state.value,
                    bindings.get(grant.binding, ABSENT),
                    grant.assigned_identity,
                    grant.service_account,
                ]
                for grant in review.grants
            ],
            "nodes": [
                {
                    "name": node.name,
                    "host": hosts.get(node.host, ABSENT),
                    "nmi": node.nmi,
                    "today": within(node.blast_radius.today),
                    "federated": within(node.blast_radius.federated),
                }
                for node in review.nodes
            ],
            "hosts": [
                {
                    "id": host.id,
                    "name": _last(host.id),
                    "kind": host.kind,
                    "read": host.read,
                    "problem": host.problem,
                    "system": host.system_assigned,
                    "attached": [explained(attached) for attached in host.attached],
                }
                for host in review.hosts
            ],
            "subjects": [
                {
                    "name": subject.full_name,
                    "rights": [
                        {
                            "action": right.action.value,
                            "namespaces": right.namespaces,
                            "via": right.via,
                            "identities": right.identities,
                        }
                        for right in subject.rights
                    ],
                }
                for subject in review.subjects
            ],
        }
    )
    return made


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return {name: _printable(item) for name, item in value.items()} if isinstance(value, dict) else value


def _index(names: Iterable[str]) -> dict[str, int]:
    return {name: at for at, name in enumerate(names)}


def _at(index: Mapping[str, int], names: Iterable[str]) -> list[int]:
    return [index[name] for name in names if name in index]


def _last(resource_id: str) -> str:
    return resource_id.rpartition("/")[2] or resource_id


def to_json(document: Document) -> str:
    """Return *document* as JSON that cannot end the script element that contains it, nor start markup in it."""
    text = msgspec.json.encode(document).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
