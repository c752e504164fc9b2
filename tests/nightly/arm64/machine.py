"""Tests on a kernel for arm64, in a machine that qemu-system-aarch64 emulates.

`python -m tests.nightly.arm64.machine [TEST...]`, after prepare.py. The machine has two processors, 3 GiB of memory and
a serial console, and neither a disk nor a network device. Its initramfs contains Debian's programs and kernel modules,
the locked packages and the compiled sources of prepare.py, and `init`, which runs the tests.

The console is copied to standard output. The exit code is 0 if pytest's was 0 and the machine ended in time.
"""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from tests.nightly.arm64.emulated import NOT_EMULATED, SO_MEMINFO, SO_ORIGINAL_DST, TCP_INFO
from tests.nightly.arm64.prepare import OUTPUT, SITE, SOURCE, unpack_system

FOLDER: Final = OUTPUT / "machine"
SYSTEM: Final = FOLDER / "root"
DEBIAN_PACKAGES: Final = (
    "conntrack,coreutils,dash,iproute2,iptables,kmod,libc-bin,linux-image-cloud-arm64,mount,nftables,procps,python3,"
    "util-linux"
)
LEFT_OUT: Final = re.compile(
    r"(boot|usr/share/(doc|info|locale|man)|lib/modules/[^/]+/kernel/(fs|sound|drivers/(?!net(/|$))[^/]+))(/|$)"
)
"""Files of SYSTEM that the machine does not need. It keeps them in memory."""
RULES: Final = "tests/system/local/nmi/node/test_"
TESTS: Final = (
    *(
        f"tests/contract/native/{test}"
        for reason in (TCP_INFO, SO_MEMINFO, SO_ORIGINAL_DST)
        for test in NOT_EMULATED[reason]
    ),
    f"{RULES}redirect_in_force.py",
    f"{RULES}redirect_repair.py",
    f"{RULES}packets.py",
)
"""What qemu-user cannot run, and NMI's rules in the tables of each backend, also with packets of a pod."""
SECONDS: Final = 3600.0
"""Time limit of the machine, which takes minutes."""
QEMU: Final = (
    "qemu-system-aarch64 -machine virt -cpu cortex-a72 -accel tcg,thread=multi -smp 2 -m 3G "
    "-nodefaults -nic none -display none -serial stdio -no-reboot"
)
"""A machine that runs until it switches itself off, or its kernel panics."""
ENDED: Final = re.compile(r"^arm64 machine: pytest ended with (\d+)$", re.MULTILINE)
"""The line of `init` with pytest's exit code."""


def cause_of_failure(console: str) -> str:
    """Return why the tests have not passed, from the machine's whole output; empty if they have."""
    if not (ended := ENDED.search(console)):
        return "the machine ended, or its time limit passed, before pytest did; the console above shows how far it came"
    code = int(ended[1])
    return f"pytest in the machine ended with {code}; its report is on the console above" if code else ""


def append(archive: BinaryIO, folder: Path, name: str, left_out: re.Pattern[str] | None = None) -> None:
    """Append a cpio archive of *name* in *folder*. The kernel unpacks all archives of an initramfs."""
    paths = [folder / name, *sorted((folder / name).rglob("*"))]
    names = [str(path.relative_to(folder)) for path in paths]
    given = "\0".join(name for name in names if left_out is None or not left_out.match(name)).encode()
    command = ["cpio", "--null", "--create", "--format=newc", "--quiet"]
    subprocess.run(command, cwd=folder, input=given, stdout=archive, check=True)


def build(initramfs: Path, tests: Sequence[str]) -> Path:
    """Write the *initramfs* for *tests*. Return the kernel for it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    unpack_system(SYSTEM, DEBIAN_PACKAGES, "/site")
    (modules,) = (SYSTEM / "lib/modules").iterdir()
    subprocess.run(["depmod", "-b", str(SYSTEM), modules.name], check=True)
    (FOLDER / "tests").write_text("".join(f"{test}\n" for test in tests))
    shutil.copy2(Path(__file__).with_name("init"), FOLDER / "init")
    with initramfs.open("wb") as archive:
        append(archive, SYSTEM, ".", LEFT_OUT)
        append(archive, OUTPUT, SITE.name)
        append(archive, OUTPUT, SOURCE.name)
        append(archive, FOLDER, "init")
        append(archive, FOLDER, "tests")
    return SYSTEM / "boot" / f"vmlinuz-{modules.name}"


def main(tests: Sequence[str]) -> str:
    """Run *tests*, or TESTS, and return why they failed, for sys.exit()."""
    initramfs = FOLDER / "initramfs"
    kernel = build(initramfs, tests or TESTS)
    command = [*QEMU.split(), "-kernel", str(kernel), "-initrd", str(initramfs)]
    command += ["-append", "console=ttyAMA0 loglevel=1 panic=-1"]
    console, pipe = "", subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, text=True, errors="replace") as machine:
        limit = threading.Timer(SECONDS, machine.kill)
        limit.start()
        try:
            for line in machine.stdout or ():
                print(line, end="", flush=True)  # noqa: T201
                console += line
        finally:
            limit.cancel()
            machine.kill()
    cause = cause_of_failure(console)
    return cause and f"test-arm64-machine: {cause}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
