"""The command line that runs a program like a container: with its volumes, its user and its capabilities.

There is no container engine and no image. The program is one of this project, run by this interpreter from this
machine's files in its own mount namespace. This needs root.
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
"""The capabilities that container engines grant to root if a pod does not name any."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of this machine, and its path in the container."""

    source: Path
    target: PurePosixPath
    read_only: bool = False


def command(argv: Sequence[str], mounts: Sequence[Mount], context: SecurityContext, scratch: Path) -> list[str]:
    """Return the command that runs *argv* with *mounts* and the permissions of *context*.

    The command creates *scratch*, a folder for this program alone. The root file system is this machine's with an
    overlay: mount points and files that the program writes elsewhere disappear with the program.
    """
    root = scratch / "root"
    mounted = mount_points(Path("/proc/self/mounts").read_text(), _interpreter())
    layers = quote(f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work")
    lines = [
        f"mkdir -p {quote(str(scratch))}",
        f"mount -t tmpfs tmpfs {quote(str(scratch))}",
        f"mkdir {' '.join(quote(str(scratch / layer)) for layer in ('root', 'upper', 'work'))}",
        f"mount -t overlay overlay -o {layers} {quote(str(root))}",
        *(f"mount --rbind {quote(point)} {quote(f'{root}{point}')}" for point in mounted),
    ]
    for mount in mounts:
        lines += _bind(mount, root, _real(mount.target))
    if context.read_only_root_filesystem:
        # Not the overlay itself: mount of util-linux 2.41 passes its layers again, which the kernel refuses.
        lines.append(f"mount -o remount,bind,ro {quote(str(root))}")
    inside = ["chroot", str(root), "env", f"--chdir={Path.cwd()}", *_rights(context), *argv]
    lines.append(f"exec {join(inside)}")
    return ["unshare", "--mount", "--propagation=private", "sh", "-ec", "\n".join(lines)]


def mount_points(mounts: str, needed: Sequence[Path]) -> list[str]:
    """Return the mount points of *mounts* (/proc/self/mounts) that a program needs and an overlay of the root lacks.

    These are those directly below the root, and any others with a file of *needed*. A mount point comes after those
    that contain it. /run is not one: a container has its own, and volumes below /var/run/secrets would otherwise create
    their mount points in the machine's.
    """
    targets = {line.split()[1] for line in mounts.splitlines()} - {"/", "/run"}
    return sorted(
        target for target in targets if target.count("/") == 1 or any(path.is_relative_to(target) for path in needed)
    )


def _interpreter() -> tuple[Path, ...]:
    """Return the folders of the program's modules and of the interpreter."""
    return Path.cwd(), Path(sys.prefix), Path(sys.base_prefix)


def _bind(mount: Mount, root: Path, where: PurePosixPath) -> list[str]:
    """Return the commands that mount it at *where* in *root*, and the interpreter's folders below it again."""
    source, target = quote(str(mount.source)), quote(f"{root}{where}")
    file = f"mkdir -p $(dirname {target}); [ -e {target} ] || : > {target}"
    made = f"mkdir -p {target}" if mount.source.is_dir() else file
    hidden = [folder for folder in _interpreter() if folder.is_relative_to(where)]
    kept = [
        line
        for folder in hidden
        for line in (
            f"mkdir -p {quote(f'{root}{folder}')}",
            f"mount --bind {quote(str(folder))} {quote(f'{root}{folder}')}",
        )
    ]
    read_only = [f"mount -o remount,bind,ro {target}"] if mount.read_only else []
    return [made, f"mount --bind {source} {target}", *kept, *read_only]


def _rights(context: SecurityContext) -> list[str]:
    """Return setpriv with its options. The program cannot gain privileges by executing another one."""
    user = [] if context.run_as_user in {None, 0} else [f"--reuid={context.run_as_user}", "--clear-groups"]
    if context.privileged:
        return ["setpriv", "--pdeathsig=KILL", "--no-new-privs", *user]
    added = {capability.removeprefix("CAP_").lower() for capability in context.capabilities.add}
    dropped = {capability.removeprefix("CAP_").lower() for capability in context.capabilities.drop}
    kept = added if "all" in dropped else (set(DEFAULT_CAPABILITIES) - dropped) | added
    bounds = ",".join(["-all", *(f"+{capability}" for capability in sorted(kept))])
    return ["setpriv", "--pdeathsig=KILL", "--no-new-privs", *user, f"--bounding-set={bounds}", f"--inh-caps={bounds}"]


def _real(target: PurePosixPath) -> PurePosixPath:
    """Return the path without the link /var/run, which every machine has."""
    return PurePosixPath("/run", *target.parts[3:]) if target.parts[:3] == ("/", "var", "run") else target
