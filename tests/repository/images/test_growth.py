"""The comparison of an image's files with the recorded sizes."""

from pathlib import PurePosixPath

from tests.support.image_sizes import Files, find_growth, measure

SITE = "/opt/podidentity/lib/python3.11/site-packages"
CLIENT = PurePosixPath(f"{SITE}/aiohttp/client.py")
FILES: Files = {
    CLIENT: 1_000_000,
    PurePosixPath(f"{SITE}/idna/core.py"): 1_000,
    PurePosixPath("/usr/lib/x86_64-linux-gnu/libc.so.6"): 2_000_000,
}
RECORD = measure(FILES)


def test_small_groups_are_recorded_together() -> None:
    assert RECORD == {
        "total": 3_001_000,
        "package aiohttp": 1_000_000,
        "other files": 1_000,
        "shared libraries": 2_000_000,
    }


def test_growth_of_a_group_and_a_new_package_are_reported_with_the_largest_files() -> None:
    assert not list(find_growth(RECORD, {path: size * 105 // 100 for path, size in FILES.items()}))
    (message,) = find_growth(RECORD, {**FILES, CLIENT: 1_060_000})
    assert message == f"package aiohttp grew from 1,000,000 to 1,060,000 bytes; its largest files: {CLIENT} (1,060,000)"
    new = PurePosixPath(f"{SITE}/kubernetes/client.py")
    _total, others = find_growth(RECORD, {**FILES, new: 5_000_000})
    assert others.startswith("other files grew")
    assert str(new) in others
