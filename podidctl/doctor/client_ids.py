"""Check that AzureIdentities name the client ids that Azure reports, by MIC's own comparison."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mic.azure.identities import HostIdentities
from mic.azure.reading import read_hosts
from mic.decisions.client_ids import mismatch
from mic.startup.azure_reader import azure_reader
from mic.startup.settings import Settings
from podidctl.doctor.objects import live_pods
from podidctl.doctor.schema import Finding, Level, make_finding
from podidctl.doctor.state import Objects
from podidctl.fair_order import by_turns
from podidctl.printing import listed
from podidentity.azure.errors import AzureError
from podidentity.azure.resource_ids import Host, parse_provider_id, parse_user_assigned
from podidentity.report import counted
from podidentity.resources import IdentityType

CHECK: Final = "client ids"
HOSTS_MAX: Final = 200
"""VMs and scale sets that one command reads."""

Answers = Mapping[str, HostIdentities | AzureError]
"""Azure's response for each host, by its key."""


async def read_used_hosts(settings: Settings, objects: Objects) -> Answers:
    """Return Azure's response for each host with labelled pods, at most HOSTS_MAX. Raises StartError."""
    async with azure_reader(settings) as (_, compute):
        return await read_hosts(compute, used_hosts(objects)[:HOSTS_MAX])


def used_hosts(objects: Objects) -> Sequence[Host]:
    """Return the hosts of labelled pods, each once, sorted by key."""
    nodes = {each.spec.node_name for each in live_pods(objects)}
    hosts = (parse_provider_id(each.spec.provider_id) for each in objects.nodes if each.metadata.name in nodes)
    by_key = {each.key: each for each in hosts if each is not None}
    return [by_key[key] for key in sorted(by_key)]


def check_client_ids(objects: Objects, answers: Answers) -> Iterator[Finding]:
    """Report identities of type 0 with another client id than Azure's, and hosts that Azure did not report."""
    known = [each for each in answers.values() if isinstance(each, HostIdentities)]
    failed = [key.rpartition("/")[2] for key, each in answers.items() if isinstance(each, AzureError)]
    compared = faults = 0
    for identity in by_turns(objects.identities, lambda each: each.metadata.namespace):
        parsed = parse_user_assigned(identity.spec.resource_id)
        if identity.spec.type != IdentityType.USER_ASSIGNED or parsed is None:
            continue
        attached = next((each.attached[parsed.key] for each in known if parsed.key in each.attached), None)
        compared += attached is not None
        if why := mismatch(identity, attached):
            faults += 1
            yield make_finding(CHECK, Level.PROBLEM, why, f"correct AzureIdentity {'/'.join(identity.key)}")
    unread = [each.key for each in used_hosts(objects) if each.key not in answers]
    if unread:
        says = f"{counted(len(unread), 'more VM or scale set was', 'more VMs and scale sets were')} not read"
        then = f"one run reads at most {HOSTS_MAX}; podidctl explain pod --cloudconfig reads that of one pod"
        yield make_finding(CHECK, Level.UNKNOWN, says, then)
    if failed:
        says = f"Azure did not report {counted(len(failed), 'VM or scale set', 'VMs or scale sets')}: {listed(failed)}"
        yield make_finding(CHECK, Level.UNKNOWN, says, "check --cloudconfig and the role Reader, or try again")
    if not faults:
        says = f"{counted(compared, 'identity', 'identities')} on the pods' hosts compared with Azure"
        yield make_finding(CHECK, Level.OK, says)
