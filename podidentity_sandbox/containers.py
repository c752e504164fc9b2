"""A program started as a container's is: it sees its volumes, has the container's user and rights, and no more.

There is no engine and no image: the program is one of ours, run by this interpreter from this machine's files, in a
mount namespace of its own. Only root can do that.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import join, quote

from podidentity_sandbox.pod_projection import SecurityContext

DEFAULT_CAPABILITIES = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid"),
    *("setpcap", "net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)
"""What container engines leave to root where a pod says nothing."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, and where the program sees it."""

    source: Path
    target: PurePosixPath
    read_only: bool = False


def command(argv: Sequence[str], mounts: Sequence[Mount], context: SecurityContext, scratch: Path) -> list[str]:
    """The command that runs *argv* with *mounts* and the rights of *context*; *scratch* is a folder for it alone, and
    is made.

    The program's root is this machine's under a layer of its own: what is made for the mounts, and what the program
    writes elsewhere, is gone with it.
    """
    root = scratch / "root"
    layers = quote(f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work")
    lines = [
        f"mkdir -p {quote(str(scratch))}",
        f"mount -t tmpfs tmpfs {quote(str(scratch))}",
        f"mkdir {' '.join(quote(str(scratch / each)) for each in ('root', 'upper', 'work'))}",
        f"mount -t overlay overlay -o {layers} {quote(str(root))}",
        *(f"mount --rbind {quote(each)} {quote(f'{root}{each}')}" for each in _mounted()),
    ]
    for mount in mounts:
        lines += _bind(mount, root, _real(mount.target))
    if context.read_only_root_filesystem:
        lines.append(f"mount -o remount,ro {quote(str(root))}")
    inside = ["chroot", str(root), "env", f"--chdir={Path.cwd()}", *_rights(context), *argv]
    lines.append(f"exec {join(inside)}")
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(lines)]


def _mounted() -> list[str]:
    """What is mounted right below the root: a layer does not show it."""
    targets = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    return sorted(target for target in targets if target.count("/") == 1 and target != "/")


def _bind(mount: Mount, root: Path, where: PurePosixPath) -> list[str]:
    """What mounts it at *where* in *root*, and again what the program itself is made of, should that lie below."""
    source, target = quote(str(mount.source)), quote(f"{root}{where}")
    file = f"mkdir -p $(dirname {target}); [ -e {target} ] || : > {target}"
    made = f"mkdir -p {target}" if mount.source.is_dir() else file
    hidden = [each for each in (Path.cwd(), Path(sys.prefix), Path(sys.base_prefix)) if each.is_relative_to(where)]
    kept = [
        line
        for each in hidden
        for line in (f"mkdir -p {quote(f'{root}{each}')}", f"mount --bind {quote(str(each))} {quote(f'{root}{each}')}")
    ]
    read_only = [f"mount -o remount,bind,ro {target}"] if mount.read_only else []
    return [made, f"mount --bind {source} {target}", *kept, *read_only]


def _rights(context: SecurityContext) -> list[str]:
    """setpriv and its options. A container of ours never gains rights by what it runs."""
    user = [] if context.run_as_user in {None, 0} else [f"--reuid={context.run_as_user}", "--clear-groups"]
    if context.privileged:
        return ["setpriv", "--pdeathsig=KILL", "--no-new-privs", *user]
    added = {each.removeprefix("CAP_").lower() for each in context.capabilities.add}
    dropped = {each.removeprefix("CAP_").lower() for each in context.capabilities.drop}
    kept = added if "all" in dropped else (set(DEFAULT_CAPABILITIES) - dropped) | added
    bounds = ",".join(["-all", *(f"+{each}" for each in sorted(kept))])
    return ["setpriv", "--pdeathsig=KILL", "--no-new-privs", *user, f"--bounding-set={bounds}", f"--inh-caps={bounds}"]


def _real(target: PurePosixPath) -> PurePosixPath:
    """Where a path leads on machines on which /var/run is a link, that is, on all."""
    return PurePosixPath("/run", *target.parts[3:]) if target.parts[:3] == ("/", "var", "run") else target
