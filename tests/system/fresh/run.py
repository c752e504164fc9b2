"""The first commands of a new user, and the tests, on machines on which nothing of this project is installed.

`python -m tests.system.fresh.run demos [--commit=COMMIT]` is `make fresh`: `make demo` in four scenarios, then the
commands of the pages. `python -m tests.system.fresh.run tests [SELECTION]` is `make fresh-test`: `make test` for each
release and user that SELECTION names, such as "12 root". The output of each is in build/fresh/NAME.log. The exit code
is 0 if all passed. Where no machine can run, the command prints the reason; with CI=true this is an error.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.support.testplane import up
from tests.system.fresh import pages
from tests.system.fresh.machine import FOLDER, Machine, make_clone, make_debian, obstacle

RELEASES: Final = {"12": "bookworm", "13": "trixie"}
USERS: Final = ("root", "user")
TARGETS: Final = {"demos": "fresh", "tests": "fresh-test"}
DEMO_SECONDS: Final = 3600
TEST_SECONDS: Final = 5400
LAST_LINES: Final = 40


@dataclass(frozen=True)
class Demo:
    """A user, the installed *packages*, the *absent* programs, and a pattern of a line of the output of `make demo`."""

    name: str
    user: str
    packages: str
    absent: tuple[str, ...]
    line: str


DEMOS: Final = (
    Demo("root without iptables and nft", "root", "", ("iptables", "nft"), "loopback.*nftables|nftables.*loopback"),
    Demo("root with nftables", "root", "nftables", ("iptables",), r"dnat to 127\.0\.0\.1:2579"),
    Demo("root with iptables", "root", "iptables", ("nft",), r"-j DNAT --to-destination 127\.0\.0\.1:2579"),
    Demo("ordinary user", "user", "", ("iptables", "nft"), "loopback.*not root|not root.*loopback"),
)
"""Each set of packages that decides how the sandbox redirects the requests of pods."""


def selected(selection: str) -> list[tuple[str, str]]:
    """Return the releases and users of `make test`. Raise ValueError for another word than a release or a user."""
    words = selection.split()
    if unknown := set(words) - {*RELEASES, *USERS}:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; use {', '.join((*RELEASES, *USERS))}")
    releases = [number for number in RELEASES if number in words] or list(RELEASES)
    users = [user for user in USERS if user in words] or list(USERS)
    return [(number, user) for number in releases for user in users]


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)  # noqa: T201


def passed(name: str, log: Path, scenario: Callable[[Path], None]) -> bool:
    """Run a scenario with a new *log*, and report its result. Return whether it passed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    begin = time.monotonic()
    try:
        scenario(log)
        fault = ""
    except (AssertionError, OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
        fault = str(error)
    report(f"{name}: {'FAILED' if fault else 'passed'} after {time.monotonic() - begin:.0f} s")
    if fault:
        report("\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]))
        report(f"{name}: {fault}; all of the output: {log}")
    return not fault


def faults(demo: Demo, output: str) -> str:
    """Return how the output of `make demo` differs from the expected one, or an empty string."""
    if pages.DEMO_END not in output:
        return f"the output does not contain {pages.DEMO_END!r}"
    return "" if re.search(demo.line, output) else f"no line of the output matches {demo.line!r}"


def run_demo(demo: Demo, clone: Path, log: Path) -> None:
    """Run `make demo` in a machine of its own. Raise RuntimeError if it fails."""
    install = "apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends"
    with Machine(RELEASES["12"], clone, demo.user, DEMO_SECONDS) as machine:
        # Debian refreshes the lists daily; make_debian may have been weeks ago.
        machine.run("apt-get update -q", log, user="root")
        if demo.packages:
            machine.run(f"DEBIAN_FRONTEND=noninteractive {install} {demo.packages}", log, user="root")
        for program in demo.absent:  # else this scenario tests another one
            machine.run(f"! command -v {program}", log, user="root")
        if fault := faults(demo, machine.run("make demo", log)):
            raise RuntimeError(f"make demo: {fault}")


def run_pages(clone: Path, log: Path) -> None:
    """Run the commands of the pages in *clone*. Raise RuntimeError for the first one that fails."""
    commands = pages.read(clone)
    with Machine(RELEASES["12"], clone, "root", DEMO_SECONDS) as machine:
        with up.tool("kubectl").open("rb") as kubectl:  # the page requires it in the second terminal
            machine.run("install -m 755 /dev/stdin /usr/local/bin/kubectl", log, stdin=kubectl)
        for page, lines in commands.items():
            pages.follow(machine, page, lines, log)


def run_test(release: str, user: str, commit: str, log: Path) -> None:
    """Run `make test` at *commit*. Raise RuntimeError if it fails."""
    make_debian(release)
    clone = make_clone(f"{release}-{user}", commit, user)
    with Machine(release, clone, user, TEST_SECONDS) as machine:
        machine.run("apt-get update -q", log, user="root")
        machine.run(f"make test JOBS={os.environ.get('JOBS', 'auto')}", log)
    shutil.rmtree(clone)


def run_demos(commit: str) -> list[bool]:
    """Run the demos and the commands of the pages at *commit*. Return whether each passed."""
    results = []
    make_debian(RELEASES["12"])
    clones = {user: make_clone(user, commit, user) for user in USERS}
    for number, demo in enumerate(DEMOS, start=1):
        scenario = partial(run_demo, demo, clones[demo.user])
        results.append(passed(f"make demo as {demo.name}", FOLDER / f"demo-{number}.log", scenario))
    names = " and ".join(name for name, _ in pages.PAGES)
    results.append(passed(f"the commands of {names}", FOLDER / "pages.log", partial(run_pages, clones["root"])))
    for command, reason in pages.EXCLUDED.items():
        report(f"not run: {command}, because {reason}")
    if all(results):
        for clone in clones.values():
            shutil.rmtree(clone)
    return results


def run_tests(commit: str, runs: list[tuple[str, str]]) -> list[bool]:
    """Run `make test` at *commit* for each of *runs*. Return whether each passed."""
    results = []
    for number, user in runs:
        log = FOLDER / f"test-{number}-{user}.log"
        scenario = partial(run_test, RELEASES[number], user, commit)
        results.append(passed(f"make test on Debian {number} as {user}", log, scenario))
    return results


def main(arguments: list[str]) -> int:
    """Run what *arguments* name. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.fresh.run")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("selection", nargs="?", default="", help='releases and users for tests, such as "12 root"')
    parser.add_argument("--commit", default="HEAD", help="what is cloned; the scenarios are those of this checkout")
    options = parser.parse_args(arguments)
    try:
        runs = selected(options.selection)
    except ValueError as error:
        parser.error(str(error))
    if reason := obstacle():
        report(f"make {TARGETS[options.target]}: NOT RUN, because {reason}")
        return 1 if os.environ.get("CI") == "true" else 0
    results = run_demos(options.commit) if options.target == "demos" else run_tests(options.commit, runs)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
