"""Comparison of the actual state with the expected one, in the cluster and on each host."""

from collections.abc import Callable, Collection, Iterable, Mapping

from podidentity_sandbox.kubeapi.store import Store
from podidentity_sandbox.machines import Machine
from tests.mic.emulated_cloud import ASSIGNED
from tests.mic.history.oracle import (
    ASSIGNED_STATUS,
    ClaimName,
    Document,
    Need,
    annotation,
    assignment_key_of,
    dying,
    needs,
    wrong_object,
)
from tests.mic.history.ownership import Watcher

FindMachine = Callable[[str], Machine | None]


def violations(store: Store, find: FindMachine, hosts: Iterable[str], truth: Watcher, refused: Collection[str]) -> str:
    """Return the first difference from the expected state; empty if there is none. *refused*: lower-case ids that Azure
    refuses."""
    wanted = needs(store)
    found: dict[ClaimName, Document] = {}
    for each in store.list(ASSIGNED):
        if dying(each):
            return f"{each['metadata']['name']} is still going"
        claim = assignment_key_of(each)
        if claim not in wanted or claim in found:
            return f"{each['metadata']['name']} is not needed, or is a duplicate"
        found[claim] = each
    for claim, need in wanted.items():
        if problem := _unmet(need, found.get(claim), find(need.host), refused):
            return f"{claim} on {need.node}: {problem}"
    return next(filter(None, (_misplaced(host.lower(), find(host), wanted, truth) for host in hosts)), "")


def _unmet(need: Need, assigned: Document | None, machine: Machine | None, refused: Collection[str]) -> str:
    if need.resource and machine is None:
        return ""  # without a host nothing is assigned, so any state is correct
    if assigned is None:
        return "has no AzureAssignedIdentity"
    if wrong := wrong_object(need, assigned):
        return f"its object is wrong in {wrong}"
    there = not need.resource or (machine is not None and need.resource in machine.user_assigned)
    reported = machine.user_assigned[need.resource].client_id if need.resource and there and machine else ""
    other = bool(reported and need.client and reported.lower() != need.client)
    fit = there and not other
    message = annotation(assigned, "message")
    problems = {
        "is not on its host": not there and need.resource not in refused,
        f"is {assigned['status']['status']}, on the host: {there}, names another client id: {other}": fit
        != (assigned["status"]["status"] == ASSIGNED_STATUS),
        "it is still Created without a reason": not fit and not message,
        f"names another client id, and the message does not name both: {message}": other
        and not (need.client in message.lower() and reported in message),
        f"is attached, and still has the message: {message}": fit and bool(message),
    }
    return next((problem for problem, holds in problems.items() if holds), "")


def _misplaced(host: str, machine: Machine | None, wanted: Mapping[ClaimName, Need], truth: Watcher) -> str:
    if machine is None:
        return ""
    if machine.updating:
        return f"{host} is being changed"
    foreign = {each for where, each in truth.foreign if where == host}
    optional = {each for where, each in truth.either if where == host} | truth.immutable
    needed = {need.resource for need in wanted.values() if need.host == host and need.resource}
    there = set(machine.user_assigned)
    if lost := foreign - there:
        return f"{host} has lost {lost}"
    if extra := there - foreign - needed - optional:
        return f"{host} still has {extra}"
    return ""
