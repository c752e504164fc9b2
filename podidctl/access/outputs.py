"""Output formats of the review. The tables have a row per workload, or with *wide* one per pod and every detail."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final

from rich.console import Console

from podidctl.access.dot import dot
from podidctl.access.html.document import document
from podidctl.access.schema import (
    AccessReview,
    BlastRadius,
    Explained,
    Grant,
    GrantState,
    HostAccess,
    PodAccess,
    Reach,
    short_name,
)
from podidctl.report.text import Output, grouped, listed, print_document, print_line, print_table, print_text
from podidentity.exits import StartError
from podidentity.report import counted, plain

TYPES: Final = {0: "managed identity", 1: "secret", 2: "certificate", 3: "federated"}
UNKNOWN: Final = "unknown"
NAMES_MAX: Final = 6
"""Names in one cell, without *wide*."""


class AccessOutput(StrEnum):
    """Output format."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    DOT = "dot"
    HTML = "html"


def render(review: AccessReview, output: AccessOutput, to: Console) -> None:
    """Print *review*. Raises StartError for HTML on a terminal, or without the extra that it needs."""
    match output:
        case AccessOutput.TABLE | AccessOutput.WIDE:
            _show(review, to, wide=output is AccessOutput.WIDE)
        case AccessOutput.JSON | AccessOutput.YAML:
            print_document(review, Output(output), to)
        case AccessOutput.DOT:
            print_text(dot(review), to)
        case AccessOutput.HTML:
            if to.is_terminal:
                raise StartError("the HTML is one long file: redirect it, podidctl access -o html > access.html")
            print_text(document(review), to)


def _show(review: AccessReview, to: Console, *, wide: bool) -> None:
    most = 1 << 30 if wide else NAMES_MAX
    for line in _headline(review):
        print_line(to, plain(line))
    for binding in review.bindings:
        if binding.critical:
            line = f"critical: binding {binding.full_name} (selector {binding.selector!r}) {binding.critical}"
            print_line(to, (line, "red"))
    if review.blast_radius is not None:
        _show_blast_radius(review, review.blast_radius, to)
    _table(to, "identities", _identities(review, most, wide=wide), wide=wide)
    if not review.identities and review.summary.identities is not None:
        to.print("no AzureIdentity")
    _table(to, "exceptions", _exceptions(review, most), wide=wide)
    _table(to, "pods", _pods(review, most, wide=wide), wide=wide)
    if not review.pods and review.summary.pods is not None:
        to.print("no pod with an identity or access to its host")
    _table(to, "hosts", _hosts(review, most), wide=wide)
    _table(to, "nodes", _nodes(review, most), wide=wide)
    _table(to, "programs", _programs(review, most), wide=wide)
    _table(to, "subjects", _subjects(review, most, wide=wide), wide=wide)
    hidden = sum(subject.built_in for subject in review.subjects)
    if hidden and not wide:
        to.print(f"and {counted(hidden, 'subject')} of Kubernetes itself; -o wide lists them", style="dim")
    for unknown in review.unknown:
        line = f"unknown: {unknown.part}: {unknown.why}; needed: {unknown.right}"
        print_line(to, (line, "magenta"))
    if review.azure == "not read":
        to.print(
            "Azure was not read, so identities that no object in the cluster shows are not listed; pass --cloudconfig"
        )
    if not review.cluster_identity:
        to.print(
            "no cloud config names the cluster's own identity, so bindings of it are not recognized; pass the "
            "azure.json of a node as --cloudconfig"
        )


COLUMNS: Final = {
    "identities": ("identity", "type", "pods", "pods by host", "bindings", "hosts", "problem"),
    "exceptions": ("exception", "pods with one of the labels", "pods"),
    "pods": ("pods", "node", "identities", "through", "reaches its host by", "its service account may"),
    "hosts": ("host", "nodes", "attached", "not explained", "system-assigned"),
    "nodes": ("node taken over", "NMI", "identities today", "if all are federated", "through"),
    "programs": ("program", "service account", "identities today", "if all are federated", "why"),
    "subjects": ("subject", "may", "on", "where", "identities", "through"),
}


def _table(to: Console, name: str, rows: Iterable[Sequence[str]], *, wide: bool) -> None:
    shown = [row if wide else [row[0], *map(plain, row[1:])] for row in rows]
    if shown:
        print_table(COLUMNS[name], shown, to)


def _headline(review: AccessReview) -> Iterator[str]:
    summary, rules = review.summary, review.rules
    if review.scope.kind:
        yield f"{review.scope.kind} {review.scope.name}"
    numbers = (
        (summary.identities, "identity", "identities"),
        (summary.bindings, "binding", "bindings"),
        (summary.pods, "pod", "pods"),
        (summary.nodes, "node", "nodes"),
    )
    cluster = ", ".join(
        UNKNOWN + " " + plural if n is None else counted(n, singular, plural) for n, singular, plural in numbers
    )
    with_ = UNKNOWN if summary.pods_with_identities is None else str(summary.pods_with_identities)
    by_host = UNKNOWN if summary.host_pods is None else str(summary.host_pods)
    undecided = f", undecided: {summary.undecided_pods}" if summary.undecided_pods else ""
    yield f"the cluster has {cluster}; pods with an identity: {with_}; pods that reach their host: {by_host}{undecided}"
    limits = ", identities serve their own namespace only" if rules.force_namespaced else ""
    yield f"{rules.mode} mode{limits}, by {rules.source}; Azure: {review.azure}"


def _show_blast_radius(review: AccessReview, radius: BlastRadius, to: Console) -> None:
    print_line(to, (f"within reach of an attacker in this {review.scope.kind}", "bold"))
    for name, reach in (("today", radius.today), ("if all identities were federated", radius.federated)):
        print_line(to, f"  {name}: {_reach(reach, 1 << 30)}")
    for program in review.programs:
        if program.account in radius.accounts:
            line = f"and by the credentials of {program.program} ({program.account})"
            today, federated = listed(program.today, NAMES_MAX), listed(program.federated, NAMES_MAX)
            print_line(to, f"  {line}: {today}; if all were federated: {federated}")


def _identities(review: AccessReview, most: int, *, wide: bool) -> Iterator[Sequence[str]]:
    for identity in review.identities:
        kind = TYPES.get(identity.type, str(identity.type)) + (
            ", namespaced" if identity.namespaced and identity.type != 3 else ""
        )
        yield (
            identity.full_name + (f" ({identity.client_id})" if wide and identity.client_id else ""),
            kind,
            str(identity.pods),
            str(identity.host_pods),
            listed(identity.bindings, most),
            listed(identity.hosts if wide else map(short_name, identity.hosts), most),
            identity.problem,
        )


def _exceptions(review: AccessReview, most: int) -> Iterator[Sequence[str]]:
    for exception in review.exceptions:
        labels = (f"{key}={value}" for key, value in exception.labels.items())
        yield (exception.full_name, listed(labels, most), str(exception.pods))


def _pods(review: AccessReview, most: int, *, wide: bool) -> Iterator[Sequence[str]]:
    def way(access: HostAccess) -> str:
        return f"{access.setting} ({access.why})" if wide and access.why else access.setting

    grants = grouped((grant.pod, grant) for grant in review.grants)
    rows: defaultdict[tuple[str, ...], list[PodAccess]] = defaultdict(list)
    for pod in review.pods:
        own = grants[pod.full_name]
        cells = (
            "; ".join(filter(None, (listed((_grant(grant) for grant in own), most), pod.note))),
            listed({_path(grant) for grant in own}, most),
            "; ".join([*map(way, pod.host_access), *(f"undecided: {way(access)}" for access in pod.undecided_access)]),
            ", ".join(right.value for right in pod.rights),
        )
        rows[(pod.full_name if wide else f"{pod.namespace}/{pod.workload}", *cells)].append(pod)
    for row, pods in rows.items():
        title = row[0] if wide or len(pods) == 1 else f"{row[0]} ({counted(len(pods), 'pod')})"
        yield (title, listed({pod.node or "(none)" for pod in pods}, most if wide else 1), *row[1:])


def _hosts(review: AccessReview, most: int) -> Iterator[Sequence[str]]:
    for host in review.hosts:
        strange = [attached.resource_id for attached in host.attached if attached.explained is Explained.NOTHING]
        unknown = UNKNOWN + (f" ({host.problem})" if host.problem else "")
        yield (
            f"{host.kind} {short_name(host.id)}",
            listed(host.nodes, most),
            listed(
                (", ".join(attached.identities) or short_name(attached.resource_id) for attached in host.attached), most
            ),
            listed(map(short_name, strange), most) if host.read else unknown,
            UNKNOWN if host.system_assigned is None else "yes" if host.system_assigned else "no",
        )


def _nodes(review: AccessReview, most: int) -> Iterator[Sequence[str]]:
    for node in review.nodes:
        radius = node.blast_radius
        accounts = ", ".join(radius.accounts)
        yield (node.name, node.nmi, _reach(radius.today, most), _reach(radius.federated, most), accounts)


def _programs(review: AccessReview, most: int) -> Iterator[Sequence[str]]:
    for program in review.programs:
        yield (
            program.program,
            program.account,
            listed(program.today, most),
            listed(program.federated, most),
            program.why,
        )


def _subjects(review: AccessReview, most: int, *, wide: bool) -> Iterator[Sequence[str]]:
    for subject in review.subjects:
        if subject.built_in and not wide:
            continue
        for right in subject.rights:
            objects = ", ".join(resource.partition(".")[0] for resource in right.resources)
            names = f" named {listed(right.names, most)}" if right.names else ""
            yield (
                subject.full_name,
                right.action.value + (" (wildcard)" if right.wildcard else ""),
                f"{', '.join(right.verbs)} {objects}{names}",
                listed(right.namespaces, most) or "all namespaces",
                str(right.identities),
                listed(right.via, most),
            )


def _grant(grant: Grant) -> str:
    return grant.identity if grant.state is GrantState.USABLE else f"{grant.identity} ({grant.state.value})"


def _path(grant: Grant) -> str:
    account = f"service account {grant.service_account}" if grant.service_account else ""
    if grant.binding:
        binding = f"label {grant.label!r} → binding {grant.binding}" if grant.label else f"binding {grant.binding}"
        return f"{binding}, {account}" if account else binding
    return account or f"assigned identity {grant.assigned_identity}"


def _reach(reach: Reach, most: int) -> str:
    parts = [listed(reach.identities, most)] if reach.identities else []
    if reach.others:
        parts.append(f"on Azure only: {listed(map(short_name, reach.others), most)}")
    if reach.system_assigned:
        parts.append("the host's system-assigned identity")
    if not reach.complete:
        parts.append("others of the host are unknown")
    return "; ".join(parts) or "none"
