"""What the command line of `explain` names, and its explanation."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import typer

from mic.azure.host_client import HostReader, ResourceReader
from podidctl.checks.explanation import explain, explain_pods
from podidctl.checks.objects import Examined, Key, examine_binding, examine_identity, examine_node, missing
from podidctl.checks.pod import misplaced_label
from podidctl.commands.connection import NAME_PATTERN, parse_pod_name
from podidctl.evaluation.cluster import ClusterCase
from podidctl.facts.kinds import PLACED_NODES
from podidctl.facts.model import Facts, NmiConfiguration
from podidctl.facts.workloads import DAEMON_SETS, DEPLOYMENTS, STATEFUL_SETS, LabelSelector, Owner
from podidctl.reading.pods import chosen, list_running, read_pods
from podidctl.reading.reader import SHARED, pod_parts, read
from podidctl.reading.requests import or_none
from podidctl.report.documents import Explanation, PodsExplanation
from podidentity.kube.client import Client
from podidentity.kube.errors import ApiError
from podidentity.resources import BINDING_LABEL, BINDINGS, IDENTITIES, Kind

POD: Final = "pod"
WORKLOADS: Final = {"deployment": DEPLOYMENTS, "statefulset": STATEFUL_SETS, "daemonset": DAEMON_SETS}
EXAMINATIONS: Final[Mapping[str, Callable[[ClusterCase, Key], Examined]]] = {
    "identity": examine_identity,
    "binding": examine_binding,
    "node": examine_node,
}
KINDS: Final[Mapping[str, Kind[Any]]] = {
    **WORKLOADS,
    "identity": IDENTITIES,
    "binding": BINDINGS,
    "node": PLACED_NODES,
}
"""Kinds of the objects other than pods, by their words on the command line."""


class Target(NamedTuple):
    """What the command line names."""

    word: str = POD
    name: str = ""
    namespace: str = ""
    """For a node, that of its pods."""
    everywhere: bool = False
    selector: str = ""

    def check(self) -> None:
        """Raise typer.BadParameter for a wrong combination or name."""
        if self.name and (self.everywhere or self.selector):
            raise typer.BadParameter(f"a NAME selects one {self.word}: omit it, or -A and -l")
        if not self.name and self.word != POD:
            raise typer.BadParameter(f"the NAME of the {self.word} is empty: pass it")
        if not (self.name or self.namespace or self.everywhere or self.selector):
            raise typer.BadParameter("pass the NAME of a pod, or -n NAMESPACE, -A or -l SELECTOR for several pods")
        if self.namespace and self.everywhere:
            raise typer.BadParameter("-n NAMESPACE and -A exclude each other: omit one of them")
        self.key("default")

    def key(self, usual: str) -> Key:
        """Return namespace and name. *usual*: the namespace if none is given. Raises typer.BadParameter."""
        if self.name and self.word != "node":
            what = f"a {'' if self.word == POD else 'valid '}{self.word} name"
            return parse_pod_name(self.name, self.namespace, usual, what)
        for text, plural in ((self.name, "nodes"), (self.namespace, "namespaces")):
            if text and not NAME_PATTERN.fullmatch(text):
                raise typer.BadParameter(f"{text!a} is no name; see kubectl get {plural}")
        return "" if self.everywhere or self.word == "node" else self.namespace or usual, self.name


async def explain_target(
    client: Client,
    target: Target,
    given: NmiConfiguration | None,
    azure: HostReader | None,
    roles: ResourceReader | None = None,
) -> Explanation | PodsExplanation:
    """Return the explanation of what the command line names. Raises ApiError and typer.BadParameter.

    *azure* reads the hosts, and *roles* the role assignments of the identity of one pod.
    """
    key = target.key(client.access.namespace or "default")
    if target.word == POD and target.name:
        return explain(await read(client, Facts(scope=key, configuration=given), pod_parts(azure, roles)))
    # Bindings select pods of all namespaces.
    namespace = {"node": target.namespace}.get(target.word, "") if target.word in EXAMINATIONS else key[0]
    examined, selector = Examined(()), target.selector or BINDING_LABEL
    if target.word in WORKLOADS:
        kind = WORKLOADS[target.word]
        # A list instead of a get, because the answer about a missing name has the similar ones.
        workloads = {workload.key: workload for workload in await or_none(client.list(kind, namespace)) or ()}
        if key not in workloads:
            return explain_pods((), missing(target.word, kind, key, workloads).findings)
        examined = Examined([fault] if (fault := misplaced_label(Owner(kind, workloads[key]))) else ())
        selector = selector_text(workloads[key].spec.selector or LabelSelector())
    try:
        pods = await list_running(client, namespace, selector, node=target.name if target.word == "node" else "")
    except ApiError as error:
        # Only the API server's parser knows whether the operator's selector is valid.
        if error.status == HTTPStatus.BAD_REQUEST and target.selector:
            raise typer.BadParameter(f"-l: {error.message}") from error
        raise
    facts = Facts(scope=(namespace, ""), configuration=given, pods=tuple(pods))
    shared = await read(client, facts, SHARED)
    if target.word in EXAMINATIONS:
        examined = EXAMINATIONS[target.word](ClusterCase(shared), key)
        pods = examined.pods
    few = chosen(pods)
    several = await read_pods(client, shared, few, azure)
    where = f" on node {target.name}" if target.word == "node" else ""
    where += f" in namespace {namespace}" if namespace else ""
    return explain_pods(several, examined.findings, len(pods) - len(few), selector, where)


def selector_text(selector: LabelSelector) -> str:
    """Return *selector* in the syntax of a request."""
    parts = [f"{key}={value}" for key, value in (selector.match_labels or {}).items()]
    for requirement in selector.match_expressions or ():
        values = f" ({','.join(requirement.values or ())})"
        texts = {"Exists": requirement.key, "DoesNotExist": f"!{requirement.key}"}
        parts.append(texts.get(requirement.operator, f"{requirement.key} {requirement.operator.lower()}{values}"))
    return ",".join(parts)
