"""Install Debian packages of exactly the versions in packages.lock. The Dockerfile runs this in a stage of its build.

usage: install_packages.py GROUP

GROUP is a key of GROUPS. The file packages.lock is next to this one. Where apt-get would install or upgrade a package
that the lock does not have, or in another version, nothing is installed, and the message names the next action. With
PACKAGES=newest in the environment the differences are printed, and the packages are installed.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

LOCK = Path(__file__).with_name("packages.lock")
GROUPS = {
    "build": ("gcc", "libc6-dev"),
    # Debian's Python has its headers and venv in separate packages.
    "build-for-debians-python": ("gcc", "libc6-dev", "python3-dev", "python3-venv"),
    # The programs that change a node's rules and connections.
    "nmi": ("iptables", "nftables", "conntrack"),
}
INSTALL = ("install", "-y", "-q", "--no-install-recommends", "--no-remove")
# Above the priority of a version in the apt sources (500), but too low for the replacement of an installed newer one.
PRIORITY = 990


def locked_versions(lock: str, release: str, architecture: str) -> dict[str, str]:
    """Return the version of each package for a Debian *release* and an *architecture*, none if they are not locked."""
    return dict(tomllib.loads(lock).get(release, {}).get(architecture, {}))


def preferences(locked: Mapping[str, str]) -> str:
    """Return apt preferences that select the *locked* versions where the apt sources have them."""
    return "\n".join(
        f"Package: {name}\nPin: version {version}\nPin-Priority: {PRIORITY}\n" for name, version in locked.items()
    )


def planned_versions(simulation: str) -> dict[str, str]:
    """Return the version of each package that `apt-get --simulate`, whose output this is, would install."""
    return dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", simulation, re.MULTILINE))


def differences(planned: Mapping[str, str], locked: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each *planned* package that is not *locked* in that version."""
    for name, version in sorted(planned.items()):
        if name not in locked:
            yield f"{name} {version} is not locked"
        elif version != locked[name]:
            yield f"{name} {version}, but {locked[name]} is locked"


def advice(lock: str) -> str:
    """Return the next action after a difference from the *lock*."""
    return (
        "Debian's mirrors delete superseded versions. Build with the apt sources of the locked snapshot, "
        f"{tomllib.loads(lock)['snapshot']} (deploy/docker/README.md), renew the lock (make lock-packages), or accept "
        'the differences in images that are not released: IMAGE_FLAGS="--build-arg PACKAGES=newest"'
    )


def apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get and return its exit code, output and messages."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command = ["apt-get", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def failure(done: subprocess.CompletedProcess[str], place: str, lock: str) -> str:
    """Return the message about a command that failed, with its output and the next action."""
    return f"{' '.join(done.args)} failed with the versions of {place}:\n{done.stdout}{done.stderr}{advice(lock)}"


def install(
    group: str, lock: str, release: str, architecture: str, preferences_file: Path, *, newest: bool = False
) -> str:
    """Install the packages of *group*, and return an empty string, or the reason why not all are installed. *newest*:
    print differences from the *lock* and install the packages; if apt-get cannot have the locked versions, those that
    it prefers itself.
    """
    locked = locked_versions(lock, release, architecture)
    place = f"deploy/docker/packages.lock ({release}, {architecture})"
    if not locked:
        return f"{place} has no packages; use a base that it has, or add it to tools/lock_packages.py"
    preferences_file.write_text(preferences(locked))
    updated = apt_get("update", "-q")
    if updated.returncode:
        return failure(updated, place, lock)
    simulate = (*INSTALL, "--simulate", *GROUPS[group])
    simulated = apt_get(*simulate)
    if simulated.returncode and newest:
        # A locked version of one package can require that of another, of which the base has a newer one.
        sys.stderr.write(f"apt-get cannot install the versions of {place}:\n{simulated.stdout}{simulated.stderr}")
        preferences_file.unlink()
        simulated = apt_get(*simulate)
    if simulated.returncode:
        return failure(simulated, place, lock)
    if different := [*differences(planned_versions(simulated.stdout), locked)]:
        listed = "\n  ".join([f"apt-get finds other packages than {place}:", *different])
        if not newest:
            return f"{listed}\n{advice(lock)}"
        sys.stderr.write(f"{listed}\n")
    installed = apt_get(*INSTALL, *GROUPS[group])
    return failure(installed, place, lock) if installed.returncode else ""


def main() -> None:
    """Install the group of sys.argv in this stage. Exit with the reason if that fails."""
    (group,) = sys.argv[1:]
    if group == "build" and not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        group = "build-for-debians-python"
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', Path("/etc/os-release").read_text(), re.MULTILINE))
    command = ["dpkg", "--print-architecture"]
    architecture = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    release = fields.get("VERSION_CODENAME", "")
    newest = os.environ.get("PACKAGES") == "newest"
    preferences_file = Path("/etc/apt/preferences.d/locked")
    reason = install(group, LOCK.read_text(), release, architecture, preferences_file, newest=newest)
    if reason:
        sys.exit(f"install_packages.py: {reason}")


if __name__ == "__main__":
    main()
