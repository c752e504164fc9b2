"""The packages that the demo installs are those of the lock with all packages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def entries(name: str) -> set[str]:
    """Return each package of the lock with its version, condition and hashes."""
    text = (ROOT / name).read_text().replace("\\\n", "")
    return {" ".join(line.split()) for line in text.splitlines() if "==" in line}


def test_sandbox_lock_is_a_part_of_requirements_lock() -> None:
    assert entries("sandbox.lock") < entries("requirements.lock"), "run: make lock"
