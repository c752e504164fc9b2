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
from contextlib import ExitStack
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
SLIRP: Final = ("slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback")
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
    if not TUN.exists():
        return f"{TUN} is missing, so that slirp4netns cannot connect a network namespace"
    with tempfile.TemporaryDirectory() as folder:
        trial = subprocess.run([*UNSHARE, "sh", "-c", TRIAL, "sh", folder], capture_output=True, text=True, check=False)
    return f"namespaces or overlays are not permitted: {trial.stderr.strip()}" if trial.returncode != 0 else ""


def make_debian(release: str) -> None:
    """Make the files of *release* (a minute), unless they exist. Raise CalledProcessError."""
    folder, part = FOLDER / release, FOLDER / f"{release}.part"
    if folder.exists():
        return
    shutil.rmtree(part, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    targets = _output("apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Created-By: Packages")
    # The mirrors of the host. On a host that is not Debian there is none: mmdebstrap then uses Debian's own mirror.
    rows = [line.split() for line in targets.splitlines() if line.startswith("Debian ")]
    host = min((suite for _, _, suite in rows), key=len, default="")
    sources = {f"deb {uri} {suite.replace(host, release)} main" for _, uri, suite in rows if suite.startswith(host)}
    settings = _output("apt-config", "dump", "Acquire").splitlines()
    command = ["mmdebstrap", "-q", "--variant=minbase", f"--include={PACKAGES}", ADD_USER]
    command += [f"--aptopt={line}" for line in settings if DOWNLOADS.match(line)]
    subprocess.run([*command, release, part, *sorted(sources)], check=True)
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
        self._settings = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
        words = {word for value in self._settings.values() for word in value.split() if Path(word).is_absolute()}
        self._arguments = [str(FOLDER), release, str(clone.relative_to(FOLDER)), CHECKOUTS[user], *sorted(words)]
        self._limit = limit

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            machine = subprocess.Popen(
                [*WITH_PARENT, *UNSHARE, str(ENTER), *self._arguments], stdout=subprocess.PIPE, text=True
            )
            stack.callback(_kill, machine)  # the other processes of the machine end with its first one
            assert machine.stdout is not None
            self._pid = machine.stdout.readline().strip()
            if not self._pid:
                raise RuntimeError("the machine did not start (see above)")
            ready, connected = os.pipe()
            log = FOLDER / "slirp4netns.log"
            with log.open("w") as output:
                network = subprocess.Popen(
                    [*WITH_PARENT, *SLIRP, f"--ready-fd={connected}", self._pid, "tap0"],
                    stdout=output,
                    stderr=output,
                    pass_fds=(connected,),
                    text=True,
                )
            stack.callback(_kill, network)
            os.close(connected)
            with os.fdopen(ready) as response:
                if response.read(1) != "1":
                    raise RuntimeError(f"slirp4netns cannot connect the machine: {log.read_text()}")
            timer = threading.Timer(self._limit, machine.kill)
            timer.start()
            stack.callback(timer.cancel)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self, command: str, *, user: str = "", stdin: int | IO[Any] = subprocess.DEVNULL, stdout: int | IO[str]
    ) -> subprocess.Popen[str]:
        """Start a shell command in the checkout, as the machine's user or as *user*. *stdout* receives all output."""
        user = user or self._user
        login = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "sh", "-c"]
        home = str(Path(CHECKOUTS[user]).parent)
        return subprocess.Popen(
            ["nsenter", f"--target={self._pid}", *NAMESPACES, *login, f"cd {CHECKOUTS[self._user]}\n{command}"],
            env={**self._settings, "HOME": home, "LANG": "C.UTF-8", "PATH": PATHS[user], "USER": user},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str, log: Path, *, stdin: int | IO[Any] = subprocess.DEVNULL, user: str = "") -> str:
        """Run a shell command as `start` does. Append its output to *log*, and return it. Raise RuntimeError if it
        fails."""
        with log.open("a+") as output:
            print(f"$ {command}", file=output, flush=True)
            begin = output.tell()
            if code := self.start(command, user=user, stdin=stdin, stdout=output).wait():
                raise RuntimeError(f"{command} ended with {code}")
            output.seek(begin)
            return output.read()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
