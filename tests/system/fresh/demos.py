"""`make demo` with each set of packages that decides how the sandbox redirects the requests of pods."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.system.fresh.machine import Machine


@dataclass(frozen=True)
class Demo:
    """A user, the installed *packages*, the *absent* programs, and a pattern of a line of the output."""

    name: str
    user: str
    packages: str
    absent: tuple[str, ...]
    line: str


END: Final = "The demo went well"
DEMOS: Final = (
    Demo("root without iptables and nft", "root", "", ("iptables", "nft"), "loopback.*nftables|nftables.*loopback"),
    Demo("root with nftables", "root", "nftables", ("iptables",), r"dnat to 127\.0\.0\.1:2579"),
    Demo("root with iptables", "root", "iptables", ("nft",), r"-j DNAT --to-destination 127\.0\.0\.1:2579"),
    Demo("ordinary user", "user", "", ("iptables", "nft"), "loopback.*not root|not root.*loopback"),
)


def faults(demo: Demo, code: int, output: str) -> Iterator[str]:
    """Yield how the result of `make demo` differs from the expected one."""
    if code != 0:
        yield f"the exit code is {code}"
    if END not in output:
        yield f"the output does not contain {END!r}"
    if not re.search(demo.line, output):
        yield f"no line of the output matches {demo.line!r}"


def run(machine: Machine, demo: Demo, log: Path) -> None:
    """Install the packages and run `make demo`. Raise RuntimeError for another result than the expected one."""
    install = (
        f"apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends {demo.packages}"
        if demo.packages
        else "true"
    )
    # Debian refreshes the lists daily; make_debian may have been weeks ago.
    code, _ = machine.run(f"apt-get update -q && DEBIAN_FRONTEND=noninteractive {install}", log, user="root")
    if code != 0:
        raise RuntimeError(f"apt-get ended with {code}")
    for program in demo.absent:
        if machine.run(f"command -v {program}", log, user="root")[0] == 0:
            raise RuntimeError(f"the machine has {program}, so that this scenario tests another one")
    code, output = machine.run("make demo", log)
    if message := "; ".join(faults(demo, code, output)):
        raise RuntimeError(f"make demo: {message}")
