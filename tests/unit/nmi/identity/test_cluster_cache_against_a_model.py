"""The cluster cache against a model that computes everything from the list of objects, after every event of random
runs.

The decision for a pod, and the validity of its ready responses, must not depend on the order in which objects appear,
change and disappear, on lists after missed events, or on reads in between. Excluded: silence, and time.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from _native.index import Index, PodRecord
from nmi.identity.cluster_cache import ClusterCache
from nmi.identity.decide import DecisionPolicy, Exempt, Grant, decide
from nmi.identity.metrics import IdentityMetrics
from nmi.identity.pod_entry import PodEntry
from nmi.identity.request import SelectorKind
from podidentity.kube.client import Client
from podidentity.resources import ASSIGNED, CREATED, PODS, Kind, OwnerReference, Pod, Resource
from tests.support.nmi_objects import CLIENT_ID, NODE, REQUEST, assigned_identity, binding, by, exception, identity, pod

OTHER_ID = "c11e0000-0000-0000-0000-00000000000b"
ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1")
STEPS = 250
REQUESTS = (REQUEST, by(SelectorKind.CLIENT_ID, CLIENT_ID), by(SelectorKind.CLIENT_ID, OTHER_ID))
POLICY = DecisionPolicy(force_namespaced=True)
STANDARD = ("pods", "assigned_identities", "exceptions")
MANAGED = ("pods", "bindings", "identities", "exceptions")

T = TypeVar("T")
Key = tuple[str, str]
View = tuple[object, ...]
"""The pod of an address, and its response to each request."""
Kept = tuple[View, PodRecord | None, int]
"""The responses to an address at one time, and the generation of a ready response created then."""


class ApiObjects:
    """The objects on the API server, by watch and key."""

    def __init__(self, managed: bool, exception_namespaces: tuple[str, ...]) -> None:
        self.watches = MANAGED if managed else STANDARD
        self.exception_namespaces = exception_namespaces
        self.objects: dict[str, dict[Key, Any]] = {name: {} for name in self.watches}

    def of(self, watch: str) -> list[Any]:
        return list(self.objects[watch].values())

    def candidates(self, address: str) -> list[Pod]:
        return [
            pod_
            for pod_ in self.of("pods")
            if pod_.status.phase not in {"Succeeded", "Failed"}
            and not pod_.spec.host_network
            and address in pod_.addresses
        ]

    def view(self, address: str) -> View:
        there = self.candidates(address)
        return self.view_of(there[0]) if len(there) == 1 else ()

    def view_of(self, pod_: Pod) -> View:
        gets = ["exempt" if self.is_exempt(pod_) else self.granted(pod_, number) for number in range(len(REQUESTS))]
        return (pod_.key, pod_.metadata.uid, *gets, pod_.ending)

    def is_exempt(self, pod_: Pod) -> bool:
        labels = pod_.metadata.labels or {}
        owners = pod_.metadata.owner_references or []
        if pod_.metadata.namespace == "system" and labels.get("component") == "mic" and owners:
            return True
        return any(
            exception_.metadata.namespace == pod_.metadata.namespace
            and any(labels.get(key, "-").lower() == value.lower() for key, value in exception_.spec.pod_labels.items())
            for exception_ in self.counting_exceptions()
        )

    def counting_exceptions(self) -> list[Any]:
        return [
            exception_
            for exception_ in self.of("exceptions")
            if exception_.spec.pod_labels
            and exception_.metadata.deletion_timestamp is None
            and (not self.exception_namespaces or exception_.metadata.namespace in self.exception_namespaces)
        ]

    def granted(self, pod_: Pod, number: int) -> str:
        label = (pod_.metadata.labels or {}).get("aadpodidbinding", "")
        wanted = REQUESTS[number].selector_value
        names = []
        if label and "bindings" in self.watches:
            for bound in self.of("bindings"):
                identity_ = self.objects["identities"].get((bound.metadata.namespace, bound.spec.azure_identity))
                if (
                    identity_ is not None
                    and bound.metadata.namespace == pod_.metadata.namespace
                    and bound.spec.selector == label
                    and bound.metadata.deletion_timestamp is None
                    and identity_.metadata.deletion_timestamp is None
                    and wanted in {"", identity_.spec.client_id}
                ):
                    names.append((bound.metadata.name, identity_.metadata.name))
        elif label:
            for assigned in self.of("assigned_identities"):
                embedded, by_binding = assigned.spec.azure_identity_ref, assigned.spec.azure_binding_ref
                if (
                    (assigned.spec.pod_namespace, assigned.spec.pod) == pod_.key
                    and assigned.spec.nodename in {"", NODE}
                    and assigned.status.status in {"", ASSIGNED}
                    and assigned.metadata.deletion_timestamp is None
                    and (assigned.metadata.annotations or {}).get("aadpodidentity.k8s.io/pod-uid", "")
                    in {"", pod_.metadata.uid}
                    and by_binding.spec.selector == label
                    and embedded.metadata.namespace == pod_.metadata.namespace
                    and wanted in {"", embedded.spec.client_id}
                ):
                    names.append((by_binding.metadata.name, embedded.metadata.name))
        return min(names)[1] if names else "nothing"


class Reader:
    """Replaces the client: reads return the present objects, which may be newer than the delivered events."""

    def __init__(self, api_objects: ApiObjects) -> None:
        self.api_objects = api_objects

    async def list(self, kind: Kind[Any], namespace: str = "", *, field_selector: str = "", **_: str) -> list[Any]:
        assert kind is PODS
        assert namespace == ""
        address = field_selector.split(",", maxsplit=1)[0].removeprefix("status.podIP=")
        return [pod_ for pod_ in self.api_objects.of("pods") if address in pod_.addresses]


@dataclass
class Run:
    """The API objects, the cluster cache that watches it, and the pending events."""

    api_objects: ApiObjects
    version: int = 0
    on_the_way: list[tuple[str, Key, Resource | None]] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = Index()
        self.cluster_cache = ClusterCache(
            cast("Client", Reader(self.api_objects)),
            self.index,
            IdentityMetrics(CollectorRegistry()),
            node=NODE,
            managed="bindings" in self.api_objects.watches,
            mic_namespace="system",
            exception_namespaces=self.api_objects.exception_namespaces,
        )

    def change(self, watch: str, made: Resource, *, delete: bool) -> None:
        """Change the API objects. The watch delivers the event later."""
        objects = self.api_objects.objects[watch]
        if delete:
            if objects.pop(made.key, None) is not None:
                self.on_the_way.append((watch, made.key, None))
            return
        self.version += 1
        present = msgspec.structs.replace(
            made, metadata=msgspec.structs.replace(made.metadata, resource_version=str(self.version))
        )
        objects[made.key] = present
        self.on_the_way.append((watch, made.key, present))

    def deliver(self, most: int) -> None:
        """Events arrive, those of one watch in their order."""
        for watch, key, present in self.on_the_way[:most]:
            informer = self.cluster_cache.watches.by_name[watch]
            if present is None:
                informer.objects.remove(key)
            else:
                informer.objects.put(present)
        del self.on_the_way[:most]

    def list_again(self) -> None:
        """Drop all pending events and deliver a list: first the removed objects, then the rest."""
        self.on_the_way.clear()
        for watch, objects in self.api_objects.objects.items():
            informer = self.cluster_cache.watches.by_name[watch]
            for key in [key for key in informer.store if key not in objects]:
                informer.objects.remove(key)
            for present in objects.values():
                informer.objects.put(present)

    def view_at(self, address: str) -> tuple[View, PodRecord | None]:
        record = self.index.get(address)
        if record is None:
            return (), None
        entry = record.owner
        assert isinstance(entry, PodEntry)
        assert not entry.gone
        return self.view_of(entry), record

    def view_of(self, entry: PodEntry) -> View:
        gets = []
        for request in REQUESTS:
            match decide(entry.facts, entry.assigned, request, POLICY, {}):
                case Exempt():
                    gets.append("exempt")
                case Grant(assigned):
                    gets.append(assigned.identity.metadata.name)
                case _:
                    gets.append("nothing")
        return ((entry.namespace, entry.name), entry.uid, *gets, entry.ending)

    def check_kept(self) -> None:
        """Check that ready responses are void wherever the decision for an address has changed."""
        for address in ADDRESSES:
            view, record = self.view_at(address)
            generation = record.generation if record is not None else 0
            if address in self.kept and self.kept[address][0] != view:
                assert self.kept[address][1:] != (record, generation), address
            self.kept[address] = view, record, generation

    def check_equal(self) -> None:
        """After all events, check that the cluster cache equals the model."""
        for address in ADDRESSES:
            view, record = self.view_at(address)
            several = self.api_objects.candidates(address)
            if len(several) > 1 and record is not None:
                # A read has settled it, for one of them.
                assert view in [self.api_objects.view_of(pod_) for pod_ in several]
                continue
            assert view == self.api_objects.view(address), address
            if record is not None:
                assert isinstance(record.owner, PodEntry)
                assert record.suspended is record.owner.ending
        living = {pod_.key for pod_ in self.api_objects.of("pods") if not pod_.finished}
        assert {(entry.namespace, entry.name) for entry in self.cluster_cache.entries()} == living
        assert self.cluster_cache.state()["exceptions"] == len(self.api_objects.counting_exceptions())


class RandomSteps:
    """Random objects and steps with few names, so that they collide; rare events are rare here, too."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.make: Mapping[str, Callable[[], Resource]] = {
            "pods": self.a_pod,
            "assigned_identities": self.an_assigned_identity,
            "exceptions": self.an_exception,
            "bindings": self.a_binding,
            "identities": self.an_identity,
        }

    def one_of(self, usual: T, *others: T) -> T:
        """Draw mostly usual values."""
        return usual if not others or self.random.random() < 0.7 else self.random.choice(others)

    def rarely(self) -> bool:
        return self.random.random() < 0.15

    def a_pod(self) -> Resource:
        app, component = self.one_of("x", "X", "y", ""), self.one_of("", "mic")
        return pod(
            self.random.choice(["a", "b"]),
            uid=self.one_of("uid-1", "uid-2"),
            label=self.one_of("web", "db", None),
            addresses=self.random.choice([(ADDRESSES[0],), (ADDRESSES[0], ADDRESSES[2]), (ADDRESSES[1],), ()]),
            namespace=self.one_of("ns", "system"),
            phase=self.one_of("Running", "Pending", "Succeeded", "Failed"),
            host_network=self.rarely(),
            deleting=self.rarely(),
            terminated=self.rarely(),
            started=self.random.choice([0, 60, 120]),
            labels={key: value for key, value in (("app", app), ("component", component)) if value},
            owner=OwnerReference(kind="ReplicaSet", name="mic-1", controller=True) if self.rarely() else None,
        )

    def an_assigned_identity(self) -> Resource:
        return assigned_identity(
            self.random.choice(["i", "j"]),
            binding=self.one_of("p", "q"),
            selector=self.one_of("web", "db"),
            status=self.one_of(ASSIGNED, "", CREATED),
            client_id=self.random.choice([CLIENT_ID, OTHER_ID]),
            pod_name=self.random.choice(["a", "b"]),
            pod_namespace=self.one_of("ns", "system"),
            pod_uid=self.one_of(None, "uid-1", "uid-2"),
            deleting=self.rarely(),
            namespace=self.one_of("ns", "system"),
            nodename=self.one_of(NODE, "", "node-2"),
        )

    def an_exception(self) -> Resource:
        labels = self.one_of({"app": "x"}, {}, {"app": "Y", "none": ""}, {"aadpodidbinding": "WEB"})
        return exception(
            self.random.choice(["e", "f"]),
            labels,
            namespace=self.one_of("ns", "system"),
            deleting=self.rarely(),
            uid=self.one_of("uid-1", "uid-2"),
        )

    def a_binding(self) -> Resource:
        return binding(
            self.random.choice(["p", "q"]),
            self.random.choice(["i", "j"]),
            selector=self.one_of("web", "db", ""),
            namespace=self.one_of("ns", "system"),
            deleting=self.rarely(),
            uid=self.one_of("uid-1", "uid-2"),
        )

    def an_identity(self) -> Resource:
        return identity(
            self.random.choice(["i", "j"]),
            client_id=self.random.choice([CLIENT_ID, OTHER_ID]),
            namespace=self.one_of("ns", "system"),
            deleting=self.rarely(),
            uid=self.one_of("uid-1", "uid-2"),
        )

    def change(self, run: Run) -> None:
        """Add, change or remove one object. Exceptions are rare, because they hide the identities of their pods."""
        watch = self.random.choice([*run.api_objects.watches, "pods"])
        objects = run.api_objects.objects[watch]
        if objects and self.random.random() < (0.7 if watch == "exceptions" else 0.3):
            run.change(watch, self.random.choice(list(objects.values())), delete=True)
        else:
            run.change(watch, self.make[watch](), delete=False)


async def walk(run: Run, random_steps: RandomSteps, *, gaps: bool) -> None:
    for _ in range(STEPS):
        random_steps.change(run)
        chance = random_steps.random.random()
        if gaps:
            if chance < 0.3:
                run.list_again()
        else:
            if chance < 0.1:
                await run.cluster_cache.ownership_reads.find_owner(random_steps.random.choice(ADDRESSES))
            run.deliver(random_steps.random.choice([0, 1, 1, 2, 100]))
        run.check_kept()
        if not run.on_the_way:
            run.check_equal()
    run.deliver(1000)
    run.check_equal()
    await run.cluster_cache.aclose()


@pytest.mark.parametrize("gaps", [False, True], ids=["events-and-reads", "lists-after-gaps"])
@pytest.mark.parametrize("managed", [False, True], ids=["standard", "managed"])
@settings(max_examples=15, deadline=None)  # a busy machine
@given(seed=st.integers(0, 2**32), exception_namespaces=st.sampled_from([(), ("ns",)]))
def test_each_address_answers_as_the_model_states_and_no_answer_outlives_a_change(
    managed: bool, gaps: bool, seed: int, exception_namespaces: tuple[str, ...]
) -> None:
    asyncio.run(walk(Run(ApiObjects(managed, exception_namespaces)), RandomSteps(seed), gaps=gaps))
