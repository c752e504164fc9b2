"""The comparison of an image's files with the recorded sizes."""

from pathlib import Path, PurePosixPath

from tests.images.sizes import Files, condense, find_growth, list_files, measure

SITE = "/opt/podidentity/lib/python3.11/site-packages"
FILES: Files = {
    PurePosixPath(f"{SITE}/aiohttp/client.py"): 1_000_000,
    PurePosixPath(f"{SITE}/idna/core.py"): 1_000,
    PurePosixPath("/usr/lib/x86_64-linux-gnu/libc.so.6"): 2_000_000,
}


def test_small_groups_are_recorded_together() -> None:
    assert condense(measure(FILES)) == {
        "total": 3_001_000,
        "package aiohttp": 1_000_000,
        "other files": 1_000,
        "shared libraries": 2_000_000,
    }


def test_equal_files_and_a_little_growth_are_accepted() -> None:
    record = condense(measure(FILES))
    assert not list(find_growth(record, FILES))
    assert not list(find_growth(record, {path: size * 105 // 100 for path, size in FILES.items()}))


def test_growth_of_a_group_is_reported_with_its_largest_files() -> None:
    path = PurePosixPath(f"{SITE}/aiohttp/client.py")
    (message,) = find_growth(condense(measure(FILES)), {**FILES, path: 1_060_000})
    assert message == (f"package aiohttp grew from 1,000,000 to 1,060,000 bytes; its largest files: {path} (1,060,000)")


def test_a_new_package_is_reported_as_growth_of_the_other_files() -> None:
    new = PurePosixPath(f"{SITE}/kubernetes/client.py")
    messages = list(find_growth(condense(measure(FILES)), {**FILES, new: 5_000_000}))
    assert [message.partition(" grew")[0] for message in messages] == ["total", "other files"]
    assert str(new) in messages[1]


def test_links_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/file").write_bytes(b"123")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "link").symlink_to("usr/lib/file")
    assert list_files(tmp_path) == {PurePosixPath("/usr/lib/file"): 3}
