"""Hosts by node, their states, and the hosts that an event affects. No I/O."""

from collections.abc import Iterable, Iterator
from typing import Final

from mic.cluster.host_state import ClusterLookup, HostState
from mic.decisions.assignments import AssignmentKey, ExistingAssignment, PendingDetach
from mic.decisions.identity_usage import IdentityUsage
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, id_key, parse_user_assigned

NODE_PREFIX: Final = "node:"
"""Prefix of the key of a node that no longer exists or belongs to no Azure host; an Azure id begins with a slash."""


class HostIndex:
    """States of all hosts. Every change marks the hosts that it affects; `take_dirty` returns the marked ones."""

    def __init__(self, cluster: ClusterLookup) -> None:
        self._cluster = cluster
        self._states: dict[str, HostState] = {}
        self._of_nodes: dict[str, Host | None] = {}
        self._departed: dict[str, Host] = {}
        """Hosts of deleted nodes whose objects remain; the host has other nodes."""
        self._touched: set[str] = set()

    def __len__(self) -> int:
        return len(self._states)

    @property
    def nodes(self) -> int:
        """Number of nodes that exist."""
        return len(self._of_nodes)

    def state(self, key: str) -> HostState:
        """Return the state of the host; an empty one if nothing is known about it."""
        return self._states.get(key) or HostState(key, self._cluster)

    def states(self) -> Iterable[HostState]:
        """Return the states of all hosts with nodes or objects."""
        return self._states.values()

    def exists(self, node: str) -> bool:
        """Return whether the node exists."""
        return node in self._of_nodes

    def host_of(self, node: str) -> Host | None:
        """Return the host of an existing node; None if the node belongs to no Azure host."""
        return self._of_nodes.get(node)

    def key_of(self, node: str) -> str:
        """Return the key of the host that the node belongs to, or of the node if there is no host."""
        host = self._of_nodes.get(node) or self._departed.get(node)
        return host.key if host is not None else NODE_PREFIX + node

    # Nodes

    def add_node(self, name: str, host: Host | None) -> None:
        """Add a node that exists."""
        self._of_nodes[name] = host
        if host is not None:
            host_state = self._state_at(host.key)
            host_state.nodes.add(name)
            host_state.host = host

    def remove_node(self, name: str, *, keeps_objects: bool) -> list[str]:
        """Remove the node. *keeps_objects*: the node's objects stay with the host while the host has other nodes.

        Return the earlier nodes of the host whose objects must leave the host, because it has no node left: each object
        then belongs to its own node only.
        """
        host = self._of_nodes.pop(name, None)
        self._departed.pop(name, None)
        if host is None:
            return []
        host_state = self._state_at(host.key)
        host_state.nodes.discard(name)
        if host_state.nodes:
            if keeps_objects:
                self._departed[name] = host
            return []
        host_state.host = None
        self._touched.add(host.key)
        return [earlier for earlier, departed_host in self._departed.items() if departed_host.key == host.key]

    def forget_departed(self, node: str) -> None:
        """Remove the host of a deleted node if it has no objects."""
        self._departed.pop(node, None)

    # Assignments and objects

    def count_needed(self, node: str, identity_id: UserAssignedIdentity, by: int) -> None:
        """Add (*by* 1) or remove (-1) a pod on *node* that needs the identity."""
        host_state = self._touch(self.key_of(node))
        usage = _usage(host_state, identity_id)
        usage.needed += by
        if not usage.needed:
            _tidy(host_state, usage)

    def count_existing(self, existing: ExistingAssignment, by: int) -> None:
        """Add (*by* 1) or remove (-1) an object of a node of the host, with its pending detaches."""
        host_state = self._touch(self.key_of(existing.node))
        if existing.identity_id is not None:
            usage = _usage(host_state, existing.identity_id)
            usage.count(existing, by)
            if not usage.active:
                _tidy(host_state, usage)
        if existing.terminating:
            if by > 0:
                host_state.terminating[existing.key] = existing
            else:
                host_state.terminating.pop(existing.key, None)
        for pending_detach in existing.pending_detaches:
            self._count_pending_detach(existing, pending_detach, by)

    def set_out_of_sync(self, host_key: str, key: AssignmentKey, *, out_of_sync: bool) -> None:
        """Record whether the host has to act on the assignment."""
        if out_of_sync:
            self._touch(host_key).out_of_sync[key] = None
        else:
            self._touch(host_key).out_of_sync.pop(key, None)

    def take_dirty(self) -> Iterator[str]:
        """Yield the keys of the marked hosts that have work to do, and delete empty states."""
        touched, self._touched = self._touched, set()
        for key in touched:
            host_state = self._states.get(key)
            if host_state is None:
                continue
            # Not earlier, because one event may empty a host and fill it again.
            if host_state.empty:
                del self._states[key]
            elif host_state.has_work:
                yield key

    def _count_pending_detach(self, existing: ExistingAssignment, pending_detach: PendingDetach, by: int) -> None:
        identity_id = parse_user_assigned(pending_detach.identity)
        if identity_id is None:
            return
        host_state = self._touch(id_key(pending_detach.host))
        host_state.pending_detaches += by
        usage = _usage(host_state, identity_id)
        usage.count_pending_detach(existing, pending_detach, by)
        _tidy(host_state, usage)

    def _touch(self, key: str) -> HostState:
        """Mark the host, and return its state."""
        self._touched.add(key)
        return self._states.get(key) or self._state_at(key)

    def _state_at(self, key: str) -> HostState:
        host_state = self._states.get(key)
        if host_state is None:
            host_state = self._states[key] = HostState(key, self._cluster)
        return host_state


def _usage(host_state: HostState, identity_id: UserAssignedIdentity) -> IdentityUsage:
    """Return the usage of the identity on the host; a new one if there is none."""
    key = identity_id.key
    usage = host_state.usages.get(key)
    if usage is None:
        usage = host_state.usages[key] = IdentityUsage(identity_id)
    return usage


def _tidy(host_state: HostState, usage: IdentityUsage) -> None:
    if usage.empty:
        del host_state.usages[usage.identity_id.key]
