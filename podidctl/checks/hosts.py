"""Checks of the identities on the VMs and scale sets of the pods' nodes. Pure."""

from collections.abc import Iterator
from typing import Final

from mic.azure.identities import HostIdentities
from mic.decisions.assignments import user_assigned_id
from mic.decisions.client_ids import mismatch
from nmi.identity.assigned_identity import project
from podidctl.checks.dependence import for_the_pod
from podidctl.evaluation.cluster import ClusterCase
from podidctl.evaluation.needs import CHECKED_MAX, used_hosts
from podidctl.evaluation.pod import PodCase
from podidctl.facts.model import ReadFailure
from podidctl.report.finding import Finding, Level, ok, problem, unknown
from podidctl.report.text import by_turns, listed
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, UserAssignedIdentity
from podidentity.report import counted
from podidentity.resources import AzureIdentity

CLIENT_IDS: Final = "client ids"


def azure_links(case: PodCase) -> Iterator[Finding]:
    """Yield the links of the node's host and of the pod's user-assigned identities on it; none if the pod needs none
    there.
    """
    wanted = [(identity, parsed) for identity in _intended_identities(case) if (parsed := user_assigned_id(identity))]
    if not wanted:
        return
    # Of several identities with one id on Azure, one that the pod depends on counts.
    needed_last = sorted(wanted, key=lambda its: case.depends_on(its[0].key))
    yield for_the_pod(case, needed_last[-1][0].key, host_link(case))
    if case.host is None:
        return
    keys = {parsed.key: identity.key for identity, parsed in needed_last}
    for parsed in {parsed.key: parsed for _, parsed in wanted}.values():
        yield for_the_pod(case, keys[parsed.key], _attached(case, case.host, parsed))
    for identity, _ in wanted:
        if reason := _client_id_mismatch(case, identity):
            then = f"correct AzureIdentity {'/'.join(identity.key)} with kubectl edit"
            link = problem("client id", reason, then, about="/".join(identity.key))
            yield for_the_pod(case, identity.key, link)


def _client_id_mismatch(case: PodCase, identity: AzureIdentity) -> str:
    """Return why MIC does not assign the user-assigned *identity* although it is attached to the host, by MIC's own
    check.
    """
    attached = user_assigned_id(identity)
    if attached is None:
        return ""
    there = case.azure.attached.get(attached.key) if isinstance(case.azure, HostIdentities) else None
    return mismatch(identity, there)


def _intended_identities(case: PodCase) -> list[AzureIdentity]:
    """Return the pod's identities, each once: those of its bindings and those that it is served by."""
    assigned = () if case.managed else case.facts.assigned
    served = [
        assignment.spec.azure_identity_ref
        for assignment in assigned
        if case.watches(assignment) and case.serves(project(assignment))
    ]
    # The copy in an assigned identity may have another client id than the AzureIdentity has now.
    return list({(identity.key, identity.spec.client_id): identity for identity in (*case.bound, *served)}.values())


def missing_on_azure(case: PodCase, identity: AzureIdentity) -> str:
    """Return why IMDS has no token of *identity* on the pod's node; empty if it has one or this is unknown."""
    attached, host = user_assigned_id(identity), case.host
    if attached is None or host is None:
        return ""
    link = _attached(case, host, attached)
    return link.message if link.level is Level.PROBLEM else _client_id_mismatch(case, identity)


def host_link(case: PodCase) -> Finding:
    """Return the link of the VM or scale set of the pod's node."""
    node, name = case.node, case.pod.spec.node_name
    if case.host is not None:
        return ok("host", case.host.text, about=name)
    if isinstance(node, ReadFailure):
        return unknown("host", f"the node could not be read: {node.reason}", about=name)
    if node is None:
        then = "MIC assigns no identity on a node that does not exist: delete the pod if the node was deleted"
        return problem("host", "the cluster has no such node", then, about=name)
    text = node.spec.provider_id
    message = f"its providerID {text!r} does not name a VM or scale set of Azure" if text else "it has no providerID"
    then = "check that the node is on Azure and that its cloud provider sets spec.providerID, which MIC needs"
    return problem("host", message, then, about=node.metadata.name)


def _attached(case: PodCase, host: Host, identity: UserAssignedIdentity) -> Finding:
    about, link = identity.name, "on Azure"
    match case.azure:
        case None:
            return unknown(link, "Azure was not asked", "pass --cloudconfig to read the state on Azure", about=about)
        # First: a host that is gone has no identities, which would otherwise count as not attached.
        case HostIdentities(gone=True):
            then = "check the node's providerID, and that these credentials may read that VM or scale set"
            return problem(link, f"Azure has no {host.text}", then, about=about)
        case HostIdentities() as there if there.certain(identity.key):
            return ok(link, f"it is on {host.name}", about=about)
        case HostIdentities(updating=True) as there if identity.key in there.attached:
            return unknown(
                link,
                f"an update of {host.name} on Azure is in progress",
                "run this command again in a minute",
                about=about,
            )
        case HostIdentities():
            message = f"{identity.text} is not attached to {host.name}, so IMDS has no token of it"
            then = "see podidctl plan for the reason why MIC does not attach it"
            if case.managed:
                then = f"attach it: az vm (vmss) identity assign on {host.name}; in managed mode no controller does"
            return problem(link, message, then, about=about)
        case AzureError() as error:
            cause = " ".join(filter(None, (error.status_and_code, error.message)))
            return unknown(link, f"Azure did not answer: {cause}", "check --cloudconfig, or try again", about=about)


def check_client_ids(case: ClusterCase) -> Iterator[Finding]:
    """Report identities of type 0 with another client id than Azure's, and hosts that Azure did not report; nothing if
    the command does not read Azure.
    """
    objects = case.objects
    if objects.azure is None:
        return
    responses = objects.azure.responses
    successful = [response for response in responses.values() if isinstance(response, HostIdentities)]
    failed = [key.rpartition("/")[2] for key, response in responses.items() if isinstance(response, AzureError)]
    compared = faults = 0
    for identity in by_turns(objects.identities, lambda identity: identity.metadata.namespace):
        parsed = user_assigned_id(identity)
        if parsed is None:
            continue
        attached = next(
            (identities.attached[parsed.key] for identities in successful if parsed.key in identities.attached), None
        )
        compared += attached is not None
        if reason := mismatch(identity, attached):
            faults += 1
            yield problem(CLIENT_IDS, reason, f"correct AzureIdentity {'/'.join(identity.key)}")
    unread = [host.key for host in used_hosts(objects) if host.key not in responses]
    if unread:
        message = f"{counted(len(unread), 'more VM or scale set was', 'more VMs and scale sets were')} not read"
        then = f"one run reads at most {CHECKED_MAX}; podidctl explain pod --cloudconfig reads that of one pod"
        yield unknown(CLIENT_IDS, message, then)
    if failed:
        message = (
            f"Azure did not report {counted(len(failed), 'VM or scale set', 'VMs or scale sets')}: {listed(failed)}"
        )
        yield unknown(CLIENT_IDS, message, "check --cloudconfig and the role Reader, or try again")
    if not faults:
        message = f"{counted(compared, 'identity', 'identities')} on the pods' hosts compared with Azure"
        yield ok(CLIENT_IDS, message)


POD_CHECKS: Final = (azure_links,)


CHECKS: Final = (check_client_ids,)
