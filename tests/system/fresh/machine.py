"""A Debian on which nothing of this project is installed, in mount, process and network namespaces of its own.

The files of a release are made once, in build/fresh/RELEASE. A machine changes only its overlay, which is in memory.
slirp4netns connects the machine to the network of the host, without access to the host's loopback addresses.
"""

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, Self

from tests.support.checkout import ROOT
from tests.support.listed_programs import PRESENT, REQUIRED

FOLDER: Final = ROOT / "build" / "fresh"
ENTER: Final = Path(__file__).with_name("enter")
PACKAGES: Final = ",".join(sorted(REQUIRED | PRESENT))
CHECKOUTS: Final = {"root": "/root/aad-pod-identity", "user": "/home/user/aad-pod-identity"}
PATHS: Final = {
    "root": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "user": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
}
"""The PATH of a login on Debian."""
ADD_USER: Final = '--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash user'
VARIABLES: Final = re.compile(r"PIP_\w+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(https?|all|no)_proxy", re.IGNORECASE)
"""Names of the variables with which a host reaches the package registries."""
DOWNLOADS: Final = re.compile(r"Acquire::(https?|Retries|ForceIPv[46])\b.*")
"""Apt's settings with which a host reaches them."""
PROGRAMS: Final = ("apt-get", "git", "mmdebstrap", "nsenter", "setpriv", "slirp4netns", "unshare")
TUN: Final = Path("/dev/net/tun")
NAMESPACES: Final = ("--mount", "--net", "--pid", "--ipc", "--uts")
UNSHARE: Final = ("unshare", *NAMESPACES, "--fork", "--kill-child")
WITH_PARENT: Final = ("setpriv", "--pdeathsig=KILL")
"""Prefix of a command that must end with this process, also if this process is killed."""
TRIAL: Final = (
    'mount --make-rprivate / && mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir low up work all && '
    "mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work all && mount -t proc proc all"
)


def obstacle() -> str:
    """Return why no machine can run here, or an empty string. Install the programs that a machine needs."""
    if os.geteuid() != 0:
        return "it needs root"
    if shutil.which("apt-get") is None:
        return "it needs Debian or Ubuntu, and apt-get is missing"
    if subprocess.run([ROOT / "tools" / "system-packages", "fresh"], check=False).returncode != 0:
        return "tools/system-packages cannot install the programs that it needs (see above)"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"these programs are missing: {', '.join(missing)}"
    return _forbidden()


def _forbidden() -> str:
    """Return what the kernel or a container does not permit, or an empty string."""
    if not TUN.exists():
        return f"{TUN} is missing, so that slirp4netns cannot connect a network namespace"
    with tempfile.TemporaryDirectory() as folder:
        trial = subprocess.run([*UNSHARE, "sh", "-c", TRIAL, "sh", folder], capture_output=True, text=True, check=False)
    return f"namespaces or overlays are not permitted: {trial.stderr.strip()}" if trial.returncode != 0 else ""


def registry_settings(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables of *environment* for the package registries, and the existing paths in their values."""
    settings = {name: value for name, value in environment.items() if VARIABLES.fullmatch(name)}
    words = sorted({word for value in settings.values() for word in value.split()})
    return settings, [word for word in words if Path(word).is_absolute() and Path(word).exists()]


def apt_sources(targets: str, release: str) -> list[str]:
    """Return the sources of *release* on the mirrors of the host, whose *targets* are lines of origin, URI and suite.

    Return nothing for a host that is not Debian: mmdebstrap then uses Debian's own mirror.
    """
    rows = [line.split() for line in targets.splitlines() if line.startswith("Debian ")]
    host = min((suite for _, _, suite in rows), key=len, default="")
    return sorted(
        {f"deb {uri} {suite.replace(host, release)} main" for _, uri, suite in rows if suite.startswith(host)}
    )


def make_debian(release: str) -> None:
    """Make the files of *release* (a minute), unless they exist. Raise CalledProcessError."""
    folder, part = FOLDER / release, FOLDER / f"{release}.part"
    if folder.exists():
        return
    shutil.rmtree(part, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    targets = _output("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Created-By: Packages")
    settings = _output("apt-config", "dump", "Acquire").splitlines()
    command = ["mmdebstrap", "-q", "--variant=minbase", f"--include={PACKAGES}", ADD_USER]
    command += [f"--aptopt={line}" for line in settings if DOWNLOADS.match(line)]
    subprocess.run([*command, release, part, *apt_sources(targets, release)], check=True)
    part.rename(folder)


def make_clone(name: str, commit: str, user: str) -> Path:
    """Replace FOLDER/clones/NAME by a clone with *commit*, which *user* of a machine owns. Raise CalledProcessError."""
    clone = FOLDER / "clones" / name
    shutil.rmtree(clone, ignore_errors=True)
    # Without links, because a link's owner is that of the original.
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", "--no-checkout", ROOT, clone], check=True)
    revision = _output("git", "-C", str(ROOT), "rev-parse", f"{commit}^{{commit}}").strip()
    subprocess.run(["git", "-C", clone, "checkout", "-q", "--detach", revision], check=True)
    owner = "0:0" if user == "root" else "1000:1000"  # of the first user that useradd creates
    subprocess.run(["chown", "-R", owner, clone], check=True)
    return clone


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Machine:
    """A running machine in which *user* has *clone*. Its processes and changes end with the `with` block.

    They also end after *limit* seconds; the commands that run then fail.
    """

    def __init__(self, release: str, clone: Path, user: str, limit: float) -> None:
        self._user = user
        self._settings, paths = registry_settings(os.environ)
        self._arguments = [str(FOLDER), release, str(clone.relative_to(FOLDER)), CHECKOUTS[user], *paths]
        self._processes: list[subprocess.Popen[str]] = []
        self._timer = threading.Timer(limit, self._kill)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._kill()
            raise
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._kill()

    def _start(self) -> None:
        machine = subprocess.Popen(
            [*WITH_PARENT, *UNSHARE, str(ENTER), *self._arguments], stdout=subprocess.PIPE, text=True
        )
        self._processes.append(machine)
        assert machine.stdout is not None
        self._pid = machine.stdout.readline().strip()
        if not self._pid:
            raise RuntimeError("the machine did not start (see above)")
        ready, connected = os.pipe()
        network = ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", f"--ready-fd={connected}"]
        log = FOLDER / "slirp4netns.log"
        with log.open("w") as output:
            command = [*WITH_PARENT, *network, self._pid, "tap0"]
            self._processes.append(
                subprocess.Popen(command, stdout=output, stderr=output, pass_fds=(connected,), text=True)
            )
        os.close(connected)
        with os.fdopen(ready) as response:
            if response.read(1) != "1":
                raise RuntimeError(f"slirp4netns cannot connect the machine: {log.read_text()}")

    def _kill(self) -> None:
        """End all processes of the machine: the first one ends with `unshare`, and the others with the first one."""
        for process in self._processes:
            process.kill()
            process.wait()

    def start(
        self, command: str, *, user: str = "", stdin: int | IO[Any] = subprocess.DEVNULL, stdout: int | IO[str]
    ) -> subprocess.Popen[str]:
        """Start a shell command in the checkout, as the machine's user or as *user*. *stdout* receives all output."""
        user = user or self._user
        login = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "sh", "-c"]
        return subprocess.Popen(
            ["nsenter", f"--target={self._pid}", *NAMESPACES, *login, f"cd {CHECKOUTS[self._user]}\n{command}"],
            env={
                **self._settings,
                "HOME": str(Path(CHECKOUTS[user]).parent),
                "LANG": "C.UTF-8",
                "PATH": PATHS[user],
                "USER": user,
            },
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, command: str, log: Path, *, user: str = "", stdin: int | IO[Any] = subprocess.DEVNULL
    ) -> tuple[int, str]:
        """Run a shell command as `start` does. Append its output to *log*. Return its exit code and the output."""
        with log.open("a+") as output:
            print(f"$ {command}", file=output, flush=True)
            begin = output.tell()
            code = self.start(command, user=user, stdin=stdin, stdout=output).wait()
            output.seek(begin)
            return code, output.read()
