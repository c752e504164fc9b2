"""Report of the plan as text: totals first, then each VM or scale set with changes. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from mic.preview.schema import VERBS, HostPreview, ObjectChange, Preview, Summary, verb_of
from podidentity.report import counted, printable

HOSTS_MOST: Final = 50
"""Hosts with changes that are listed unless all are requested."""
OBJECTS_MOST: Final = 10
"""Objects per kind of change on one host that are listed unless all are requested."""

SIGNS: Final = {"create": "+", "update": "~", "remove": "-", "assign": "~", "note": "~"}

NOTHING: Final = "Nothing to do."
NOTHING_KNOWN: Final = "Nothing to do, as far as is known."


def lines(preview: Preview, *, everything: bool = False) -> Iterator[str]:
    """Yield the lines, without line ends; with *everything* also unchanged hosts, and every object.

    Text from objects cannot control a terminal: a question mark replaces each unprintable character.
    """
    yield from map(printable, _lines(preview, everything=everything))


def _lines(preview: Preview, *, everything: bool) -> Iterator[str]:
    yield from summary(preview)
    listed, more = hosts(preview, everything=everything)
    for host in listed:
        yield ""
        yield from _host(host, everything=everything)
    if more:
        yield ""
        yield f"… and {more} more VMs and scale sets (--plan-all lists them)"
    if preview.left_out:
        yield ""
        yield "ignored until they are corrected:"
        for omitted in preview.left_out:
            yield f"  {omitted.kind} {omitted.name} ({counted(omitted.pods, 'pod')}): {omitted.why}"


def summary(preview: Preview) -> Iterator[str]:
    """Yield the totals and their basis."""
    numbers = preview.summary
    yield "Changes that MIC would make; no change was made."
    if preview.settings:
        yield f"  with {', '.join(f'--{name}={value}' for name, value in preview.settings.items())}"
    if preview.changes:
        yield f"  AzureAssignedIdentities: {', '.join(_verbs(numbers)) or 'no change'}"
        if preview.asked_azure:
            yield (
                f"  Azure: {counted(numbers.updates, 'update')}, on {numbers.hosts_changed} of "
                f"{counted(numbers.hosts, 'VM or scale set', 'VMs and scale sets')}; "
                f"{counted(numbers.identities_added, 'identity', 'identities')} to attach, "
                f"{numbers.identities_removed} to detach"
            )
    else:
        yield f"  {NOTHING if preview.asked_azure and not preview.unread_hosts else NOTHING_KNOWN}"
    yield (f"  pods that a binding selects: {numbers.pods_as_they_should_be} of {numbers.pods} need no change")
    if not preview.asked_azure:
        yield "  Azure was not read, so attached and detached identities of VMs and scale sets are unknown."
    if preview.upgrade_unknown:
        yield (
            "  the record of the type upgrade cannot be read, so fields with old names count, which MIC may ignore: "
            "grant list on ConfigMaps, or set MIC_POD_NAMESPACE and grant get there"
        )
    yield from read_failures(preview)


def hosts(preview: Preview, *, everything: bool) -> tuple[list[HostPreview], int]:
    """Return the hosts to list and the number of others with changes."""
    if everything:
        return preview.hosts, 0
    notable = [host for host in preview.hosts if host.notable]
    return notable[:HOSTS_MOST], max(0, len(notable) - HOSTS_MOST)


def read_failures(preview: Preview) -> Iterator[str]:
    """Yield a line for each reason why hosts could not be read."""
    by_problem: defaultdict[str, list[str]] = defaultdict(list)
    for host in preview.unread_hosts:
        by_problem[host.problem].append(host.host)
    for problem, hosts in sorted(by_problem.items()):
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        yield f"  Azure did not answer for {', '.join(hosts[:3])}{more}: {problem}"


def title(host: HostPreview) -> str:
    """Return the host and its number of nodes."""
    return f"{host.host} ({counted(len(host.nodes), 'node')})" if host.nodes else host.host


def facts(host: HostPreview) -> Iterator[tuple[str, str]]:
    """Yield changes of the host itself and identities that stay, each with its sign."""
    if host.new_type != host.type:
        yield "~", f"type {host.type} → {host.new_type}"
    yield from (("+", f"identity {identity}") for identity in host.add)
    yield from (("-", f"identity {identity}") for identity in host.remove)
    yield from (("=", f"identity {kept.identity} stays: {kept.why}") for kept in host.kept)
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for waiting in host.waiting:
        by_reason[waiting.why].append(f"pod {waiting.pod}, identity {waiting.identity}")
    for reason, assignments in sorted(by_reason.items()):
        more = f" and {len(assignments) - 3} more" if len(assignments) > 3 else ""
        yield "!", f"waits: {'; '.join(assignments[:3])}{more}: {reason}"


def becomes(change: ObjectChange) -> str:
    """Return the object's final status and the difference."""
    match verb_of(change):
        case "remove":
            end = "revoked, then removed" if not change.becomes else "revoked"
        case "note":
            end = " and ".join(dict.fromkeys(change.steps))
        case _:
            end = (
                change.becomes
                if change.was == change.becomes
                else " → ".join(filter(None, (change.was, change.becomes)))
            )
    return f"{end} ({change.detail})" if change.detail else end


def chosen(host: HostPreview, *, everything: bool) -> Iterator[tuple[str, list[ObjectChange], int]]:
    """Yield for each verb the objects to list and the number of others."""
    by_verb: defaultdict[str, list[ObjectChange]] = defaultdict(list)
    for change in host.objects:
        by_verb[verb_of(change)].append(change)
    for verb in VERBS:
        if changes := by_verb.get(verb):
            most = len(changes) if everything else OBJECTS_MOST
            yield verb, changes[:most], max(0, len(changes) - most)


def fine(host: HostPreview) -> str:
    """Return the number of objects that are in sync."""
    return counted(host.as_it_should_be, "object is in sync", "objects are in sync")


def _host(host: HostPreview, *, everything: bool) -> Iterator[str]:
    yield title(host)
    if host.problem:
        yield f"  ! Azure did not answer: {host.problem}"
    for sign, fact in facts(host):
        yield f"  {sign} {fact}"
    for verb, changes, more in chosen(host, everything=everything):
        for change in changes:
            about = f"pod {change.pod} on {change.node}, identity {change.identity}"
            yield f"  {SIGNS[verb]} {verb} {change.namespace}/{change.name}: {about}: {becomes(change)}"
        if more:
            yield f"    … and {more} more to {verb} (--plan-all lists them)"
    if host.as_it_should_be:
        yield f"    {fine(host)}"


def _verbs(numbers: Summary) -> Iterable[str]:
    words = {
        "create": "to create",
        "update": "to update in place",
        "remove": "to revoke and remove",
        "assign": "to set Assigned",
        "note": "to annotate",
    }
    return (f"{count} {words[verb]}" for verb, count in numbers.objects.items() if count)
