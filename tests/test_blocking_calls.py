"""A blocking call in the daemons' code is an error while an event loop runs. Tests and emulators may block."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockBuster, BlockingError

from tests.conftest import ROOT, detect_blocking


def code_of(path: str) -> Callable[[], None]:
    """Return a function that sleeps and belongs to the file *path*."""
    names: dict[str, Any] = {"time": time}
    exec(compile("def wait(): time.sleep(0)", ROOT / path, "exec"), names)  # noqa: S102 - the path is the point
    wait: Callable[[], None] = names["wait"]
    return wait


@pytest.mark.parametrize("path", ["nmi/app.py", "mic/app.py", "podidentity/kube/client.py"])
async def test_a_daemon_must_not_block_its_loop(path: str) -> None:
    with pytest.raises(BlockingError):
        code_of(path)()


@pytest.mark.parametrize("path", ["podidentity_sandbox/serving.py", "tests/fakes.py"])
async def test_other_code_may_block(path: str) -> None:
    code_of(path)()


def test_a_daemon_may_block_without_a_loop() -> None:
    code_of("nmi/app.py")()


def test_shutil_finds_the_functions_of_os_also_after_a_test_that_blocked(nothing_blocks_the_loop: BlockBuster) -> None:
    assert os.stat in os.supports_follow_symlinks
    nothing_blocks_the_loop.deactivate()
    detect_blocking(nothing_blocks_the_loop)
    assert os.stat in os.supports_follow_symlinks
