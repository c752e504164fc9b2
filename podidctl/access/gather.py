"""Parts of the facts that the review is computed from: one list of each kind.

A kind that may not be read is a `ReadFailure`, so that the rest of the review is still possible.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from podidctl.access.projections import REVIEWED_PODS
from podidctl.facts.model import Facts
from podidctl.facts.rbac import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Rbac
from podidctl.reading.objects import read_custom_resources, with_lists
from podidctl.reading.reader import DAEMONS, Part, read_nodes, reads
from podidctl.reading.requests import or_failure
from podidentity.kube.client import Client


async def _pods(client: Client, facts: Facts) -> Facts:
    return with_lists(facts, {"pods": await or_failure(client.list(REVIEWED_PODS))})


async def _rbac(client: Client, _: Facts) -> Rbac:
    return Rbac(
        roles=tuple(await client.list(ROLES)),
        cluster_roles=tuple(await client.list(CLUSTER_ROLES)),
        role_bindings=tuple(await client.list(ROLE_BINDINGS)),
        cluster_role_bindings=tuple(await client.list(CLUSTER_ROLE_BINDINGS)),
    )


async def _skipped(client: Client, facts: Facts) -> Facts:
    skipped: Counter[str] = Counter()
    for (plural, _), count in client.skipped.counts.items():
        skipped[plural] += count
    return replace(facts, skipped=skipped)


ACCESS: Final[Sequence[Part]] = (*DAEMONS, read_custom_resources, read_nodes, _pods, reads("rbac", _rbac), _skipped)
