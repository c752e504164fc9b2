"""The parts of the cluster cache's state on the debug page: bounded, without secrets and without client ids. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from nmi.identity.pods import PodEntry
from podidentity.kube.informer import Informer

IDENTITIES_MAX: Final = 300
"""Identities of one pod on the page."""


def pod_state(entry: PodEntry, suspended: Mapping[str, str]) -> dict[str, object]:
    """Return the state of *entry*; *suspended* maps its suspended addresses to the evidence."""
    return {
        "pod": entry.key,
        "uid": entry.uid,
        "addresses": list(entry.addresses),
        "label": entry.facts.label,
        "exempt": entry.facts.exempt,
        "doubtful": entry.doubtful,
        "terminated": entry.terminated,
        "sandbox_down": entry.sandbox_down,
        "suspended": dict(suspended),
        "host_network": entry.pod.spec.host_network,
        "identities": [
            {
                "identity": "/".join(each.identity.key),
                "binding": each.binding,
                "status": each.status,
                "usable": each.usable,
            }
            for each in entry.assigned[:IDENTITIES_MAX]
        ],
    }


def watch_state(watch: Informer[Any]) -> dict[str, object]:
    """Return the state of *watch*."""
    age = watch.staleness_seconds()
    return {
        "silent_seconds": round(age, 1) if age < float("inf") else None,
        "restarts": watch.restarts,
        "objects": len(watch.store),
    }
