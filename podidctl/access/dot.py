"""The review as a graph in the language of Graphviz: pods, bindings, identities and hosts. Pure.

Names come from objects that tenants write, so each one is a quoted string without control characters.
"""

from collections.abc import Iterator

from podidctl.access.schema import AccessReview, Explained, GrantState, PodAccess
from podidentity.report import printable

STYLES = {
    GrantState.USABLE: "solid",
    GrantState.PENDING: "dashed",
    GrantState.LEFTOVER: "bold",
    GrantState.BYPASSED: "dotted",
    GrantState.DISABLED: "dotted",
    GrantState.POSSIBLE: "dotted",
}


def dot(review: AccessReview) -> str:
    """Return the graph as text."""
    return "\n".join(_lines(review)) + "\n"


def _lines(review: AccessReview) -> Iterator[str]:
    yield "digraph access {"
    yield "  rankdir=LR;"
    for identity in review.identities:
        yield _node("identity", identity.full_name, "box", color="red" if identity.problem else "")
    for binding in review.bindings:
        yield _node("binding", binding.full_name, "cds", color="red" if binding.critical else "")
        yield _edge("binding", binding.full_name, "identity", binding.identity)
    for pod in review.pods:
        yield _node("pod", pod.full_name, "ellipse", color="red" if pod.host_access else "")
    for host in review.hosts:
        yield _node("host", host.id, "box3d")
        for attached in host.attached:
            for name in attached.identities:
                yield _edge("host", host.id, "identity", name, label=attached.explained.value)
            if not attached.identities:
                color = "red" if attached.explained is Explained.NOTHING else ""
                yield _node("attached", attached.resource_id, "note", color=color)
                yield _edge("host", host.id, "attached", attached.resource_id, label=attached.explained.value)
    for grant in review.grants:
        style = STYLES[grant.state]
        if grant.binding:
            yield _edge("pod", grant.pod, "binding", grant.binding, label=grant.state.value, style=style)
        else:
            yield _edge("pod", grant.pod, "identity", grant.identity, label=grant.state.value, style=style)
    hosts = {node.name: node.host for node in review.nodes}
    for pod in review.pods:
        if pod.node in hosts:
            yield from _host_edge(pod, hosts[pod.node])
    yield "}"


def _host_edge(pod: PodAccess, host: str) -> Iterator[str]:
    if pod.host_access:
        ways = ", ".join(dict.fromkeys(access.way.value for access in pod.host_access))
        yield _edge("pod", pod.full_name, "host", host, label=ways, style="solid", color="red")
    elif pod.undecided_access:
        ways = ", ".join(dict.fromkeys(access.way.value for access in pod.undecided_access))
        yield _edge("pod", pod.full_name, "host", host, label=f"undecided: {ways}", style="dashed", color="orange")


def _node(kind: str, name: str, shape: str, *, color: str = "") -> str:
    return f"  {_id(kind, name)} [label={_quoted(name)}, shape={shape}{f', color={color}' if color else ''}];"


def _edge(
    kind: str, name: str, to_kind: str, to_name: str, *, label: str = "", style: str = "", color: str = ""
) -> str:
    attributes = [f"label={_quoted(label)}"] if label else []
    attributes += [f"{key}={value}" for key, value in (("style", style), ("color", color)) if value]
    shown = f" [{', '.join(attributes)}]" if attributes else ""
    return f"  {_id(kind, name)} -> {_id(to_kind, to_name)}{shown};"


def _id(kind: str, name: str) -> str:
    return _quoted(f"{kind} {name}")


def _quoted(text: str) -> str:
    """Return a quoted string. Graphviz ends one at an unescaped quote and expands escapes such as \\N in labels."""
    safe = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{safe}"'
