"""The data that the report's program reads: the review with references as indexes, so that the file stays small. Pure.

Names are untrusted. They only get into the file as JSON (`to_json`) and as escaped text of the template.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from podidctl.access.schema import AccessReview, AttachedIdentity, Host, NodeAccess, PodAccess, Reach, SubjectRight
from podidentity.report import printable

Document = dict[str, Any]
ABSENT: Final = -1
"""The index of an object that the review does not have."""


def model(review: AccessReview) -> Document:
    """Return the document for `to_json`, without control characters in its texts."""
    document: Document = _printable(_document(review))
    return document


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return {name: _printable(each) for name, each in value.items()} if isinstance(value, dict) else value


def _document(review: AccessReview) -> Document:
    identities = _index(each.full_name for each in review.identities)
    bindings = _index(each.full_name for each in review.bindings)
    pods = _index(each.full_name for each in review.pods)
    nodes = _index(each.name for each in review.nodes)
    hosts = _index(each.id for each in review.hosts)
    others = _others(review.hosts)
    return {
        "identities": [
            {
                "name": each.full_name,
                "type": each.type,
                "client": each.client_id,
                "resource": each.resource_id,
                "namespaced": each.namespaced,
                "secret": each.secret,
                "problem": each.problem,
                "hosts": _at(hosts, each.hosts),
                "hostPods": each.host_pods,
            }
            for each in review.identities
        ],
        "others": [{"name": _last(each), "resource": each} for each in others],
        "bindings": [
            {
                "name": each.full_name,
                "identity": identities.get(each.identity, ABSENT),
                "target": each.identity,
                "selector": each.selector,
                "problem": f"critical: it {each.critical}" if each.critical else each.problem,
            }
            for each in review.bindings
        ],
        "pods": [_pod(each, nodes) for each in review.pods],
        "grants": [
            [
                pods.get(each.pod, ABSENT),
                identities.get(each.identity, ABSENT),
                each.state.value,
                bindings.get(each.binding, ABSENT),
                each.assigned_identity,
                each.service_account,
            ]
            for each in review.grants
        ],
        "nodes": [_node(each, hosts, identities, others) for each in review.nodes],
        "hosts": [_host(each, identities, others) for each in review.hosts],
        "subjects": [
            {"name": each.full_name, "builtIn": each.built_in, "rights": [_right(right) for right in each.rights]}
            for each in review.subjects
        ],
    }


def to_json(document: Document) -> str:
    """Return *document* as JSON that cannot end the script element that contains it, nor start markup in it."""
    text = msgspec.json.encode(document).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _index(names: Iterable[str]) -> dict[str, int]:
    return {name: at for at, name in enumerate(names)}


def _at(index: Mapping[str, int], names: Iterable[str]) -> list[int]:
    return [index[name] for name in names if name in index]


def _last(resource_id: str) -> str:
    return resource_id.rpartition("/")[2] or resource_id


def _others(hosts: Iterable[Host]) -> dict[str, int]:
    """Return the attached identities without an AzureIdentity, by resource id."""
    return _index(
        dict.fromkeys(each.resource_id for host in hosts for each in host.attached if not each.identities).keys()
    )


def _pod(pod: PodAccess, nodes: Mapping[str, int]) -> Document:
    return {
        "name": pod.full_name,
        "node": nodes.get(pod.node, ABSENT),
        "label": pod.label,
        "account": pod.service_account,
        "workload": pod.workload,
        "program": pod.program,
        "host": [[each.way.value, each.detail] for each in pod.host_access],
        "undecided": [[each.way.value, each.detail, each.why] for each in pod.undecided_access],
        "takesOver": pod.takes_over_node,
        "rights": [each.value for each in pod.rights],
        "note": pod.note,
    }


def _node(
    node: NodeAccess, hosts: Mapping[str, int], identities: Mapping[str, int], others: Mapping[str, int]
) -> Document:
    return {
        "name": node.name,
        "host": hosts.get(node.host, ABSENT),
        "nmi": node.nmi,
        "pods": node.pods,
        "hostPods": len(node.host_pods),
        "today": _reach(node.blast_radius.today, identities, others),
        "federated": _reach(node.blast_radius.federated, identities, others),
        "accounts": node.blast_radius.accounts,
    }


def _reach(reach: Reach, identities: Mapping[str, int], others: Mapping[str, int]) -> Document:
    return {
        "identities": _at(identities, reach.identities),
        "others": _at(others, reach.others),
        "system": reach.system_assigned,
        "complete": reach.complete,
    }


def _host(host: Host, identities: Mapping[str, int], others: Mapping[str, int]) -> Document:
    return {
        "id": host.id,
        "name": _last(host.id),
        "kind": host.kind,
        "read": host.read,
        "problem": host.problem,
        "system": host.system_assigned,
        "attached": [_attached(each, identities, others) for each in host.attached],
    }


def _attached(each: AttachedIdentity, identities: Mapping[str, int], others: Mapping[str, int]) -> list[Any]:
    """Return AzureIdentities, else the identity without one, and the reason for the attachment."""
    other = ABSENT if each.identities else others.get(each.resource_id, ABSENT)
    return [_at(identities, each.identities), other, each.explained.value]


def _right(right: SubjectRight) -> Document:
    return {
        "action": right.action.value,
        "namespaces": right.namespaces,
        "names": right.names,
        "via": right.via,
        "identities": right.identities,
    }
