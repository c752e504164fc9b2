"""Tests that run every input of the committed corpora through its target. Excluded: mutation by libFuzzer (`run`)."""

from contextlib import ExitStack

import pytest

from tests.nightly.fuzz.run import inputs
from tests.nightly.fuzz.targets import TARGETS
from tests.support.corpus.corpus import EVERY


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_accepts_its_corpus(name: str) -> None:
    committed = dict(inputs(name))
    assert committed
    target = TARGETS[name]()
    with ExitStack() as stack:
        stack.callback(getattr(target, "close", lambda: None))
        for place, data in {**committed, **{case.name: case.data for case in EVERY}}.items():
            try:
                target(data)
            except Exception as broken:
                raise AssertionError(f"{place}: {broken!r}") from broken
