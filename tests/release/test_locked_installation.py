"""The installation of a wheel contains only archives whose hash is in the lock."""

from typing import Any, Final

from tools.release.installation import unlocked, without_hashes

FIRST, SECOND, OWN, OTHER = (each * 64 for each in "1234")
LOCK: Final = f"""\
aiohttp==3.14.5 \\
    --hash=sha256:{FIRST} \\
    --hash=sha256:{SECOND}
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{SECOND}
"""


def report(*digests: str) -> dict[str, Any]:
    """Return pip's report of an installation of archives with these hashes."""
    return {
        "install": [
            {"download_info": {"url": f"https://x/{each[0]}.whl", "archive_info": {"hashes": {"sha256": each}}}}
            for each in digests
        ]
    }


def test_archives_of_the_lock_and_the_own_wheel_are_accepted() -> None:
    assert unlocked(report(FIRST, SECOND, OWN), LOCK, {OWN}) == []


def test_another_archive_is_named() -> None:
    assert unlocked(report(FIRST, OTHER, OWN), LOCK, {OWN}) == ["https://x/4.whl"]


def test_the_constraints_keep_versions_and_markers() -> None:
    assert without_hashes(LOCK) == "aiohttp==3.14.5\ncolorama==0.4.6 ; sys_platform == 'win32'\n"
