"""The cluster as MIC sees it: indices that five watches keep up to date, one event at a time.

An event costs what it touches (a pod's few claims, the pods of a selector), never the size of the cluster, and marks
only the VMs and scale sets concerned. Nothing here calls anybody; what is to be done about the picture is `plan`'s.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from mic.cluster.bindings import BindingIndex, Concern, Ignored
from mic.cluster.host_state import Claim, Place
from mic.cluster.pods import PodIndex, same_claims
from mic.decisions.assignments import ClaimKey, Debt, Held, Key, Want, misconfigured, settled
from mic.decisions.identity_usage import Stake
from podidentity.azure.resource_ids import Host, UserAssignedIdentity, parse_provider_id, parse_user_assigned
from podidentity.resources import AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, Node, Pod, Resource

R_contra = TypeVar("R_contra", bound=Resource, contravariant=True)

NODE_PREFIX: Final = "node:"
"""Begins the place of a node that is gone or belongs to no Azure host; an Azure id begins with a slash."""

REVOKED_JUST_NOW: Final = "revoked"
"""Stands in for the deletion's time from our DELETE's answer until the watch brings the object as it is now."""

VERSION_DIGITS: Final = 20
"""Digits of a resourceVersion that is compared as a number: etcd's revisions have 64 bits."""

RELEASED_MAX: Final = 20_000
"""Uids of objects known to be gone whose end the watch has not told yet: milliseconds' worth, unless it is away."""


class Changes(Protocol[R_contra]):
    """What an informer calls, one object at a time."""

    def upserted(self, old: R_contra | None, new: R_contra) -> None: ...

    def deleted(self, old: R_contra) -> None: ...


class _Handler(Generic[R_contra]):
    def __init__(self, change: Callable[[R_contra | None, R_contra | None], None]) -> None:
        self._change = change

    def upserted(self, old: R_contra | None, new: R_contra) -> None:
        self._change(old, new)

    def deleted(self, old: R_contra) -> None:
        self._change(old, None)


class View:
    """The indices. `on_dirty` is told the key of each place that has something to be done; `on_identity` each
    identity that is new or whose spec has changed, `on_ignored` a binding that pods do not get, and why."""

    def __init__(
        self,
        *,
        force_namespaced: bool = False,
        on_dirty: Callable[[str], None] = lambda _key: None,
        on_identity: Callable[[AzureIdentity], None] = lambda _identity: None,
        on_ignored: Ignored = lambda _binding, _why: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_dirty = on_dirty
        self._on_identity = on_identity
        self._touched: set[str] = set()
        self._places: dict[str, Place] = {}
        self._hosts_of_nodes: dict[str, Host | None] = {}
        self._departed: dict[str, Host] = {}
        self._pods = PodIndex()
        self._bindings = BindingIndex(force_namespaced=force_namespaced, on_ignored=on_ignored)
        self._wants: dict[Key, dict[ClaimKey, Want]] = {}
        self._claims: defaultdict[ClaimKey, Claim] = defaultdict(Claim)
        self._held: dict[Key, Held] = {}
        self._held_by_node: defaultdict[str, set[Key]] = defaultdict(set)
        self._released: dict[str, None] = {}
        self._clock = clock
        self._waiting: dict[ClaimKey, float] = {}
        self.waiting: Mapping[ClaimKey, float] = MappingProxyType(self._waiting)
        """The wanted claims that are not settled, and since when (by *clock*): the oldest first."""
        self.pods: Changes[Pod] = _Handler(self._pod)
        self.nodes: Changes[Node] = _Handler(self._node)
        self.identities: Changes[AzureIdentity] = _Handler(self._identity)
        self.bindings: Changes[AzureIdentityBinding] = _Handler(self._binding)
        self.assigned: Changes[AzureAssignedIdentity] = _Handler(self._assigned)

    # What others read

    def place(self, key: str) -> Place:
        """The place by its key; an empty one where nothing is known of it."""
        return self._places.get(key) or Place(key, self)

    def places(self) -> Iterable[Place]:
        return self._places.values()

    def claim(self, key: ClaimKey) -> Claim | None:
        claim = self._claims.get(key)
        if claim is not None and claim.want is not None:
            claim.want = self._bindings.current(claim.want)
        return claim

    @property
    def beyond_limit(self) -> int:
        """How many identities do not count for a selector, as others fill its limit."""
        return self._bindings.beyond_limit

    def held(self, key: Key) -> Held | None:
        return self._held.get(key)

    def place_of(self, held: Held) -> str:
        return self._place_key(held.node)

    def place_of_node(self, node: str) -> str:
        """The key of the place that the node belongs to."""
        return self._place_key(node)

    def state(self) -> dict[str, object]:
        """For /debug/state: how much of everything there is."""
        return {
            "nodes": len(self._hosts_of_nodes),
            "bound pods": len(self._pods),
            "identities": self._bindings.identities,
            "assigned identities": len(self._held),
            "hosts": len(self._places),
            "waiting": len(self._waiting),
        }

    # What the controller itself has just done, ahead of the watch

    def wrote(self, written: AzureAssignedIdentity) -> None:
        """The API server's answer to our write: as good as its event, which will say the same later."""
        self._assigned(None, written)
        self._report()

    def revoked(self, held: Held) -> None:
        """Our DELETE of *held* was accepted: from now on it only waits for its finalizer to come off."""
        present = self._held.get(held.key)
        if present is None or present.dying or present.object.metadata.uid != held.object.metadata.uid:
            return
        meta = msgspec.structs.replace(present.object.metadata, deletion_timestamp=REVOKED_JUST_NOW)
        self._replace_held(present, Held(msgspec.structs.replace(present.object, metadata=meta)))
        self._report()

    def gone(self, held: Held) -> None:
        """The object is known to be gone, whatever older news of it the watch still brings."""
        present = self._held.get(held.key)
        if present is not None and present.object.metadata.uid == held.object.metadata.uid:
            self._released[held.object.metadata.uid] = None
            if len(self._released) > RELEASED_MAX:
                del self._released[next(iter(self._released))]
            self._replace_held(present, None)
            self._report()

    # Events

    def _pod(self, _old: Pod | None, new: Pod | None) -> None:
        key = (new or _old or Pod()).key
        before, now = self._pods.replace(key, new)
        if before is not None and now is not None and same_claims(before, now):
            self._renew(key, now)
        elif before is not None or now is not None:
            self._want_again(key)
        self._report()

    def _renew(self, key: Key, pod: Pod) -> None:
        """Replace the pod in its claims, which differs in nothing that they depend on: the older one is not kept."""
        wants = self._wants.get(key, {})
        for claim, want in wants.items():
            self._claims[claim].want = wants[claim] = replace(want, pod=pod)

    def _binding(self, old: AzureIdentityBinding | None, new: AzureIdentityBinding | None) -> None:
        if new is not None:
            self._look_into(self._bindings.put_binding(new))
        elif old is not None:
            self._look_into(self._bindings.remove_binding(old))
        self._report()

    def _identity(self, old: AzureIdentity | None, new: AzureIdentity | None) -> None:
        if new is not None:
            before = self._bindings.identity(new.key)
            self._look_into(self._bindings.put_identity(new))
            if before is None or _as_told(before) != _as_told(new):
                self._on_identity(new)
        elif old is not None:
            self._look_into(self._bindings.remove_identity(old.key))
        self._report()

    def _look_into(self, concerns: Iterable[Concern]) -> None:
        """Work out again what the concerns say may have changed."""
        for selector, namespace, identity in concerns:
            for pod in self._pods.selected(selector, namespace):
                self._want_one_again(pod, identity)

    def _node(self, old: Node | None, new: Node | None) -> None:
        name = (new or old or Node()).metadata.name
        if new is None:
            host = self._hosts_of_nodes.get(name)
            self._move_node(name, known=False, host=None, departed=host)
        else:
            host = parse_provider_id(new.spec.provider_id) if new.spec.provider_id else None
            if name in self._hosts_of_nodes and _same_host(self._hosts_of_nodes[name], host):
                return  # a heartbeat
            self._move_node(name, known=True, host=host, departed=None)
        self._report()

    def _assigned(self, _old: AzureAssignedIdentity | None, new: AzureAssignedIdentity | None) -> None:
        if new is None:
            if _old is not None:
                self._released.pop(_old.metadata.uid, None)
                present = self._held.get(_old.key)
                if present is not None and present.object.metadata.uid == _old.metadata.uid:
                    self._replace_held(present, None)
        elif new.metadata.uid not in self._released or not new.metadata.uid:
            present = self._held.get(new.key)
            if present is None or not _stale(present.object, new):
                self._replace_held(present, Held(new))
        self._report()

    # Indices

    def _want_again(self, pod_key: Key) -> None:
        """Work out again all that one pod wants, and change its claims and stakes accordingly."""
        pod = self._pods.get(pod_key)
        before = self._wants.get(pod_key, {}).keys()
        claims = {ClaimKey(*pod_key, *each) for each in self._offered(pod)} if pod is not None else set()
        for key in before | claims:
            self._want_one_again(pod_key, (key.identity_namespace, key.identity))

    def _offered(self, pod: Pod) -> Iterable[Key]:
        if pod.spec.node_name not in self._hosts_of_nodes:
            return ()
        return self._bindings.offered(pod.metadata.namespace, pod.binding_label)

    def _want_one_again(self, pod_key: Key, identity: Key) -> None:
        """The same for one identity."""
        key = ClaimKey(*pod_key, *identity)
        wants = self._wants.get(pod_key)
        before = wants.get(key) if wants is not None else None
        now = self._wanted(pod_key, key, identity)
        if before is None and now is None:
            return
        if now is not None:
            self._wants.setdefault(pod_key, {})[key] = now
        elif wants is not None:
            del wants[key]
            if not wants:
                del self._wants[pod_key]
        self._set_want(key, before, now)

    def _wanted(self, pod_key: Key, key: ClaimKey, identity: Key) -> Want | None:
        pod = self._pods.get(pod_key)
        if pod is None or pod.spec.node_name not in self._hosts_of_nodes:
            return None
        claim = self._claims.get(key)
        embedded = {held.object.spec.azure_binding_ref.key for held in claim.living.values()} if claim else ()
        want = self._bindings.want(pod, identity, embedded)
        if want is not None and want.identity_id is not None and self._hosts_of_nodes[pod.spec.node_name] is None:
            return None
        return want

    def _set_want(self, key: ClaimKey, before: Want | None, now: Want | None) -> None:
        if before is not None and before.identity_id is not None:
            self._want_at(before.node, before.identity_id, -1)
        if now is not None and now.identity_id is not None:
            self._want_at(now.node, now.identity_id, 1)
        self._claims[key].want = now
        self._judge(key)

    def _want_at(self, node: str, identity_id: UserAssignedIdentity, by: int) -> None:
        place = self._place_key(node)
        self._stake(place, identity_id).wanted += by
        self._tidy(place, identity_id)

    def _replace_held(self, before: Held | None, now: Held | None) -> None:
        claims = set()
        concerns: list[Concern] = []
        for held, by in ((before, -1), (now, 1)):
            if held is None:
                continue
            claims.add(held.claim)
            self._index_held(held, by)
            if not held.dying:
                concerns += self._bindings.embeds(held, by)
        if before is not None and before.node not in self._held_by_node:
            self._departed.pop(before.node, None)
        for key in claims:
            want = self._claims[key].want
            if want is not None and now is not None and now.object.spec.azure_binding_ref.key != want.binding.key:
                # Two bindings may lead to this identity, and the object that stands decides which of them it is.
                self._want_one_again(want.pod.key, want.identity.key)
            else:
                self._judge(key)
        self._look_into(concerns)

    def _index_held(self, held: Held, by: int) -> None:
        place = self._place_key(held.node)
        if by > 0:
            self._held[held.key] = held
            self._held_by_node[held.node].add(held.key)
        else:
            self._held.pop(held.key, None)
            _discard(self._held_by_node, held.node, held.key)
        self._count_held(held, place, by)
        claim = self._claims[held.claim]
        if held.dying:
            dying = self._place_at(place).dying
            if by > 0:
                dying[held.key] = held
            else:
                dying.pop(held.key, None)
        elif by > 0:
            claim.living[held.key] = held
        else:
            claim.living.pop(held.key, None)
        for debt in held.debts:
            self._owe(held, debt, by)
        self._touched.add(place)

    def _count_held(self, held: Held, place: str, by: int) -> None:
        if held.identity_id is not None:
            self._stake(place, held.identity_id).count(held, by)
            self._tidy(place, held.identity_id)

    def _owe(self, held: Held, debt: Debt, by: int) -> None:
        identity_id = parse_user_assigned(debt.identity)
        if identity_id is None:
            return
        place = self._place_at(debt.host.lower())
        place.debts += by
        self._stake(place.key, identity_id).owe(held, debt, by)
        self._tidy(place.key, identity_id)
        self._touched.add(place.key)

    def _judge(self, key: ClaimKey) -> None:
        claim = self._claims[key]
        for place in claim.open_at:
            self._place_at(place).open.pop(key, None)
            self._touched.add(place)
        claim.open_at = ()
        if not settled(claim.want, claim.living.values()):
            if claim.want is not None:
                claim.open_at = (self._place_key(claim.want.node),)
            else:
                claim.open_at = tuple({self.place_of(held) for held in claim.living.values()})
            for place in claim.open_at:
                self._place_at(place).open[key] = None
                self._touched.add(place)
        if claim.want is not None and claim.open_at:
            self._waiting.setdefault(key, self._clock())
        else:
            self._waiting.pop(key, None)
        if claim.want is None and not claim.living:
            del self._claims[key]

    # Places

    def _place_key(self, node: str) -> str:
        host = self._hosts_of_nodes.get(node) or self._departed.get(node)
        return host.key if host is not None else NODE_PREFIX + node

    def _place_at(self, key: str) -> Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key, self)
        return place

    def _stake(self, place: str, identity_id: UserAssignedIdentity) -> Stake:
        stakes = self._place_at(place).stakes
        stake = stakes.get(identity_id.key)
        if stake is None:
            stake = stakes[identity_id.key] = Stake(identity_id)
        return stake

    def _tidy(self, place: str, identity_id: UserAssignedIdentity) -> None:
        self._touched.add(place)
        if self._places[place].stakes[identity_id.key].empty:
            del self._places[place].stakes[identity_id.key]

    def _move_node(self, name: str, *, known: bool, host: Host | None, departed: Host | None) -> None:
        """Let *name* belong to *host*, or to nobody, and carry over the claims and objects of its pods.

        The objects of a node that leaves a scale set stay with the set while that has other nodes: what MIC put on
        the set for the node's pods still has to come off when nobody else needs it.
        """
        pods = tuple(self._pods.on_node(name))
        objects = tuple(self._held[key] for key in self._held_by_node.get(name, ()))
        for pod in pods:
            for key, want in self._wants.pop(pod, {}).items():
                self._set_want(key, want, None)
        for held in objects:
            self._index_held(held, -1)
        old = self._hosts_of_nodes.pop(name, None)
        self._departed.pop(name, None)
        if old is not None:
            place = self._place_at(old.key)
            place.nodes.discard(name)
            if not place.nodes:
                self._abandon(place)
            elif departed is not None and objects:
                self._departed[name] = departed
        if known:
            self._hosts_of_nodes[name] = host
            if host is not None:
                place = self._place_at(host.key)
                place.nodes.add(name)
                place.host = host
        for held in objects:
            self._index_held(held, 1)
        for held in objects:
            self._judge(held.claim)
        for pod in pods:
            self._want_again(pod)

    def _abandon(self, place: Place) -> None:
        """The last node of a host is gone: whatever stood there is each node's own remnant now."""
        place.host = None
        self._touched.add(place.key)
        for name in [name for name, host in self._departed.items() if host.key == place.key]:
            self._move_node(name, known=False, host=None, departed=None)

    def _report(self) -> None:
        touched, self._touched = self._touched, set()
        for key in touched:
            place = self._places.get(key)
            if place is None:
                continue
            if place.empty:
                del self._places[key]
            elif place.has_work:
                self._on_dirty(key)


def _discard(index: defaultdict[str, set[Key]], value: str, key: Key) -> None:
    keys = index.get(value)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[value]


def _as_told(identity: AzureIdentity) -> tuple[object, ...]:
    return identity.metadata.uid, identity.spec, misconfigured(identity)


def _same_host(first: Host | None, second: Host | None) -> bool:
    return (first.key if first else None) == (second.key if second else None)


def _stale(present: AzureAssignedIdentity, new: AzureAssignedIdentity) -> bool:
    """Whether the watch brings what our own write's answer has already replaced.

    Only versions of one object are compared, and only as whole numbers, which they are in every API server that
    keeps its objects in etcd; anything else is taken as news.
    """
    if present.metadata.uid != new.metadata.uid:
        return False
    before, now = present.metadata.resource_version, new.metadata.resource_version
    if before == now and present.metadata.deletion_timestamp == REVOKED_JUST_NOW:
        return True
    return all(each.isdecimal() and len(each) <= VERSION_DIGITS for each in (before, now)) and int(now) < int(before)
