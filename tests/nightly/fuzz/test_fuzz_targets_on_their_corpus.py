"""Tests that run every input of the committed corpora through its target. Excluded: mutation by libFuzzer (`run`)."""

from collections.abc import Callable, Iterator

import pytest

from tests.nightly.fuzz.run import SHARES, inputs
from tests.nightly.fuzz.targets import TARGETS, Target
from tests.support.corpus.corpus import EVERY


@pytest.fixture(params=TARGETS, scope="module")
def replayed(request: pytest.FixtureRequest) -> Iterator[tuple[str, Target]]:
    """Yield the name of a target and the target."""
    target = TARGETS[request.param]()
    yield request.param, target
    close: Callable[[], None] = getattr(target, "close", lambda: None)
    close()


def test_each_target_accepts_its_corpus(replayed: tuple[str, Target]) -> None:
    name, target = replayed
    committed = dict(inputs(name))
    assert committed
    for place, data in committed.items():
        try:
            target(data)
        except Exception as broken:
            raise AssertionError(f"{place}: {broken!r}") from broken


def test_each_target_accepts_the_requests_of_the_tests(replayed: tuple[str, Target]) -> None:
    _, target = replayed
    for case in EVERY:
        try:
            target(case.data)
        except Exception as broken:
            raise AssertionError(f"{case.name}: {broken!r}") from broken


def test_every_target_gets_a_share_of_the_time() -> None:
    assert SHARES.keys() == TARGETS.keys()
