"""The packages of the environment for arm64."""

import pytest

from tests.arm64.prepare import LEFT_OUT, NEEDED, ROOT, WITHOUT_WHEELS, closure, locked

LOCK = """\
a-b==1.0 ; python_full_version < '3.14' \\
    --hash=sha256:00 \\
    --hash=sha256:01
c==2.0 \\
    --hash=sha256:02
"""


def test_the_lines_of_a_package_have_its_hashes_and_its_marker() -> None:
    assert locked(LOCK, {"a-b"}) == LOCK.partition("c==")[0]
    assert locked(LOCK, {"a-b", "c"}) == LOCK


def test_a_package_that_is_not_locked_is_refused() -> None:
    with pytest.raises(ValueError, match=r"requirements\.lock has no d; run make lock"):
        locked(LOCK, {"c", "d"})


def test_all_packages_of_the_tests_are_locked() -> None:
    names = closure(NEEDED) - LEFT_OUT
    assert names >= WITHOUT_WHEELS
    assert locked((ROOT / "requirements.lock").read_text(), names)
