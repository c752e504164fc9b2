"""An informer that holds its objects passes none to its handler until they are released, and then each of them once."""

from collections.abc import Callable

from typing_extensions import override

from podidentity.kube.object_store import ObjectStore
from podidentity.resources import BareMeta, Pod, PodMeta
from tests.support.podidentity.kube.fixtures import Bench
from tests.support.podidentity.kube.recording import Recorder
from tests.support.podidentity.kube.scripted import pod
from tests.support.waiting import until


def stored(name: str, version: str, uid: str = "") -> Pod:
    return Pod(metadata=PodMeta(name=name, uid=uid or f"uid-{name}", resource_version=version))


def holding(recorder: Recorder[Pod], skip: Callable[[BareMeta, Exception], None] | None = None) -> ObjectStore[Pod]:
    return ObjectStore(
        recorder,
        keep=lambda each: each,
        skip=skip or (lambda _meta, _error: None),
        on_doubt=lambda: None,
        clock=lambda: 0.0,
        random=lambda: 0.0,
        hold=True,
    )


async def test_the_handler_receives_the_list_and_later_events_after_the_release(bench: Bench) -> None:
    watch = await bench.watching(pod("a", "1"), pod("b", "2"), hold=True)
    watch.send("MODIFIED", pod("a", "8"))
    watch.send("DELETED", pod("b", "9"))
    await until(lambda: len(bench.informer.store) <= 1)
    assert bench.recorder.lines == []
    await bench.informer.release()
    assert bench.recorder.lines == ["+a 8"]
    watch.send("MODIFIED", pod("a", "10"))
    await bench.received("+a 8", "+a 8->10")


def test_changes_during_the_release_reach_the_handler_once(recorder: Recorder[Pod]) -> None:
    store = holding(recorder)
    for name in ("a", "b", "c", "d"):
        store.put(stored(name, "1"))
    release = store.release()
    next(release)
    (first,) = recorder.lines
    released = first[1]
    waiting = [name for name in ("a", "b", "c", "d") if name != released]
    store.put(stored(released, "2"))
    store.put(stored(waiting[0], "2"))
    store.remove(("", waiting[1]))
    store.put(stored("e", "2"))
    assert recorder.lines[1:] == [f"+{released} 1->2", "+e 2"]
    for _ in release:
        pass
    assert sorted(recorder.lines[3:]) == sorted([f"+{waiting[0]} 2", f"+{waiting[2]} 1"])
    assert {key[1] for key in store.view} == {released, waiting[0], waiting[2], "e"}


def test_another_object_of_the_same_name_replaces_a_held_one_silently(recorder: Recorder[Pod]) -> None:
    store = holding(recorder)
    store.put(stored("a", "1", uid="first"))
    store.put(stored("b", "1"))
    release = store.release()
    next(release)
    held = "a" if recorder.lines == ["+b 1"] else "b"
    store.put(stored(held, "2", uid="second"))
    list(release)
    assert sorted(line for line in recorder.lines if held in line) == [f"+{held} 2"]
    assert not any(line.startswith("-") for line in recorder.lines)


class Refusing(Recorder[Pod]):
    """Fails for one pod."""

    @override
    def upserted(self, old: Pod | None, new: Pod) -> None:
        if new.metadata.name == "bad":
            raise ValueError
        super().upserted(old, new)


def test_a_released_object_that_the_handler_refuses_is_skipped() -> None:
    skipped: list[str] = []
    recorder = Refusing()
    store = holding(recorder, lambda meta, _error: skipped.append(meta.name))
    for name in ("good", "bad", "fine"):
        store.put(stored(name, "1"))
    list(store.release())
    assert skipped == ["bad"]
    assert sorted(key[1] for key in store.view) == ["fine", "good"]
    assert sorted(recorder.lines) == ["+fine 1", "+good 1", "-bad 1"]
