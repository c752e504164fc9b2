"""Reader of what AKS's monitor of iptables reports."""

from typing import Final

from podidctl.facts.kinds import CILIUM_NODES, EVENTS
from podidctl.facts.model import REASONS, RULE_EVENTS_MAX, RULES_LABEL, ReadFailure, RuleMonitor
from podidctl.reading.requests import or_failure, or_none
from podidentity.kube.client import Client
from podidentity.kube.decoding import Malformed, decode_object

NODE_EVENTS_NAMESPACE: Final = "default"
"""The namespace of Events about nodes."""


async def read_rule_monitor(client: Client) -> RuleMonitor:
    """Return the reports. Raises NoResponse."""
    with_rules = await or_failure(_with_rules(client))
    events = await or_failure(_rule_events(client))
    if isinstance(events, ReadFailure):
        return RuleMonitor(with_rules, events)
    more = frozenset(reason for reason, (_, complete) in events.items() if not complete)
    return RuleMonitor(with_rules, {reason: names for reason, (names, _) in events.items()}, more)


async def _with_rules(client: Client) -> frozenset[str]:
    nodes = await or_none(client.list(CILIUM_NODES, label_selector=f"{RULES_LABEL}=true"))
    return frozenset(node.metadata.name for node in nodes or ())  # none without Cilium


async def _rule_events(client: Client) -> dict[str, tuple[frozenset[str], bool]]:
    return {reason: await _nodes_of(client, reason) for reason in REASONS}


async def _nodes_of(client: Client, reason: str) -> tuple[frozenset[str], bool]:
    """Return the nodes in the Events of *reason*, and whether all of these were read."""
    names: set[str] = set()
    read = 0
    async for page in client.pages(
        EVENTS, NODE_EVENTS_NAMESPACE, field_selector=f"reason={reason},involvedObject.kind=Node"
    ):
        # A list that begins again, because its token has expired, replaces what was read before.
        if page.first:
            names, read = set(), 0
        for raw in page.items:
            read += 1
            try:
                names.add(decode_object(EVENTS, raw).involved_object.name)
            except Malformed:
                continue
        if read >= RULE_EVENTS_MAX:
            return frozenset(names), False
    return frozenset(names), True
