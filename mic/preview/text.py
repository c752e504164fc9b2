"""The preview as lines for people: the numbers first, then each VM or scale set where something happens. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from mic.preview.schema import VERBS, HostPreview, ObjectChange, Preview, Summary, verb_of

HOSTS_MOST: Final = 50
"""How many of the hosts where something happens are listed, unless all are asked for."""
OBJECTS_MOST: Final = 10
"""Of how many objects of one kind of change on one host the line is written, unless all are asked for."""

SIGNS: Final = {"create": "+", "update": "~", "remove": "-", "assign": "~", "note": "~"}

NOTHING: Final = "Nothing to do."
NOTHING_KNOWN: Final = "Nothing to do, as far as is known."


def lines(preview: Preview, *, everything: bool = False) -> Iterator[str]:
    """Line by line, without ends. With *everything* also what stays as it is, and every object.

    What objects' authors wrote steers no terminal: a character that is not printed is a question mark.
    """
    yield from map(printable, _lines(preview, everything=everything))


def printable(line: str) -> str:
    """*line*, in which may stand what somebody wrote into an object, so that it does not steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in line)


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
        yield "left out until somebody corrects them:"
        for each in preview.left_out:
            yield f"  {each.kind} {each.name} ({counted(each.pods, 'pod')}): {each.why}"


def summary(preview: Preview) -> Iterator[str]:
    """What there is to do, in numbers, and what the numbers rest on."""
    numbers = preview.summary
    yield "What MIC would do; nothing has been done."
    if preview.settings:
        yield f"  with {', '.join(f'--{name}={value}' for name, value in preview.settings.items())}"
    if preview.changes:
        yield f"  AzureAssignedIdentities: {', '.join(_verbs(numbers)) or 'no change'}"
        if preview.asked_azure:
            yield (
                f"  Azure: {counted(numbers.updates, 'update')}, on {numbers.hosts_changed} of "
                f"{counted(numbers.hosts, 'VM or scale set', 'VMs and scale sets')}; "
                f"{counted(numbers.identities_added, 'identity', 'identities')} added, "
                f"{numbers.identities_removed} taken off"
            )
    else:
        yield f"  {NOTHING if preview.asked_azure and not preview.unanswered else NOTHING_KNOWN}"
    yield (
        "  pods with the label of a binding that have what they can have already: "
        f"{numbers.pods_as_they_should_be} of {numbers.pods}"
    )
    if not preview.asked_azure:
        yield "  Azure was not asked, so what is put on or taken off VMs and scale sets is not known."
    yield from unanswered(preview)


def hosts(preview: Preview, *, everything: bool) -> tuple[list[HostPreview], int]:
    """The hosts to be listed, and how many more there are where something happens."""
    if everything:
        return preview.hosts, 0
    notable = [host for host in preview.hosts if host.notable]
    return notable[:HOSTS_MOST], max(0, len(notable) - HOSTS_MOST)


def unanswered(preview: Preview) -> Iterator[str]:
    """A line for each reason why Azure did not tell what is on a host."""
    by_problem: defaultdict[str, list[str]] = defaultdict(list)
    for host in preview.unanswered:
        by_problem[host.problem].append(host.host)
    for problem, hosts in sorted(by_problem.items()):
        more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
        yield f"  Azure did not answer for {', '.join(hosts[:3])}{more}: {problem}"


def title(host: HostPreview) -> str:
    """The host, and how many nodes are on it."""
    return f"{host.host} ({counted(len(host.nodes), 'node')})" if host.nodes else host.host


def facts(host: HostPreview) -> Iterator[tuple[str, str]]:
    """What happens to the host itself and what does not, each with its sign."""
    if host.new_type != host.type:
        yield "~", f"type {host.type} → {host.new_type}"
    yield from (("+", f"identity {each}") for each in host.add)
    yield from (("-", f"identity {each}") for each in host.remove)
    yield from (("=", f"identity {each.identity} stays: {each.why}") for each in host.kept)
    by_why: defaultdict[str, list[str]] = defaultdict(list)
    for each in host.waiting:
        by_why[each.why].append(f"pod {each.pod}, identity {each.identity}")
    for why, who in sorted(by_why.items()):
        more = f" and {len(who) - 3} more" if len(who) > 3 else ""
        yield "!", f"waits: {'; '.join(who[:3])}{more}: {why}"


def becomes(change: ObjectChange) -> str:
    """What the object is in the end, and what differs."""
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
    """For each verb the objects to be listed, and how many more there are."""
    by_verb: defaultdict[str, list[ObjectChange]] = defaultdict(list)
    for change in host.objects:
        by_verb[verb_of(change)].append(change)
    for verb in VERBS:
        if found := by_verb.get(verb):
            most = len(found) if everything else OBJECTS_MOST
            yield verb, found[:most], max(0, len(found) - most)


def counted(number: int, one: str, many: str = "") -> str:
    """*number* and the word for so many."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def fine(host: HostPreview) -> str:
    """How many objects nothing has to be done about."""
    return counted(host.as_it_should_be, "object is as it should be", "objects are as they should be")


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
