"""A program that is started like a container: its files, its permissions, its leftovers."""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from podidentity_sandbox.containers import Mount, command, mount_points
from podidentity_sandbox.pod_projection import Capabilities, SecurityContext

pytestmark = pytest.mark.root

PLAIN = SecurityContext()


def run(tmp_path: Path, *argv: str, mounts: tuple[Mount, ...] = (), context: SecurityContext = PLAIN) -> str:
    started = command(argv, mounts, context, tmp_path / "scratch")
    done = subprocess.run(started, check=False, capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"


def test_only_the_program_has_its_mounts(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("something")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "inner").write_text("more")
    mounts = (
        Mount(tmp_path / "source", PurePosixPath("/etc/kubernetes/azure.json")),
        Mount(folder, PurePosixPath("/definitions")),
        Mount(tmp_path / "source", PurePosixPath("/var/run/secrets/it")),
    )
    files = ("/etc/kubernetes/azure.json", "/definitions/inner", "/var/run/secrets/it")
    assert run(tmp_path, "cat", *files, mounts=mounts) == "somethingmoresomething"
    assert not any(Path(file).exists() for file in files)
    assert run(tmp_path, "sh", "-c", "echo x >/etc/left && cat /etc/left") == "x\n"
    assert not Path("/etc/left").exists(), "other files are removed with the program"


def test_mounts_below_the_root_and_those_with_the_interpreter_are_mounted_again() -> None:
    mounts = "".join(
        f"device {target} ext4 rw 0 0\n"
        for target in ("/", "/proc", "/proc/bus", "/mnt/disk/code", "/mnt/disk", "/usr", "/run")
    )
    assert mount_points(mounts, [Path("/mnt/disk/code/main")]) == ["/mnt/disk", "/mnt/disk/code", "/proc", "/usr"]
    assert mount_points(mounts, [Path("/opt/python")]) == ["/proc", "/usr"]


def test_a_directory_mounted_over_tmp_hides_its_content_and_receives_writes(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    mounts = (Mount(folder, PurePosixPath("/tmp")),)
    assert Path(f"/{tmp_path.parts[1]}") == Path("/tmp")
    looked = f"[ ! -e {tmp_path} ] && echo written >/tmp/left"
    assert run(tmp_path, "sh", "-c", looked, mounts=mounts) == ""
    assert (folder / "left").read_text() == "written\n"


def test_the_interpreter_is_available_under_any_mount(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    mounts = (Mount(folder, PurePosixPath(*Path.cwd().parts[:2])),)
    output = run(tmp_path, sys.executable, "-c", "import nmi; print(nmi.__file__)", mounts=mounts)
    assert output == f"{Path.cwd()}/nmi/__init__.py\n"


def test_a_read_only_root_and_a_read_only_mount_reject_writes(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    context = SecurityContext(read_only_root_filesystem=True)
    assert "Read-only" in run(tmp_path, "touch", "/etc/left", context=context)
    target = PurePosixPath("/definitions")
    assert "Read-only" in run(tmp_path, "touch", "/definitions/x", mounts=(Mount(folder, target, read_only=True),))
    assert run(tmp_path, "touch", "/definitions/x", mounts=(Mount(folder, target),), context=context) == ""
    assert (folder / "x").exists()


@pytest.mark.parametrize(
    ("context", "uid", "capabilities"),
    [
        (SecurityContext(capabilities=Capabilities(drop=["ALL"])), 0, 0),
        (SecurityContext(capabilities=Capabilities(drop=["ALL"], add=["NET_ADMIN", "NET_RAW"])), 0, 0b11 << 12),
        (SecurityContext(run_as_user=65_532, capabilities=Capabilities(drop=["ALL"])), 65_532, 0),
    ],
)
def test_the_program_has_the_containers_user_and_capabilities(
    tmp_path: Path, context: SecurityContext, uid: int, capabilities: int
) -> None:
    status = dict(
        line.split(":", 1) for line in run(tmp_path, "cat", "/proc/self/status", context=context).splitlines()
    )
    assert status["Uid"].split() == [str(uid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == capabilities
    assert status["NoNewPrivs"].strip() == "1"
