"""The command `podidctl bundle`."""

import asyncio
import errno
import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from podidctl.bundle.contents import Files, collect, redacted_files
from podidctl.commands.connection import REQUEST_TIMEOUT, CliContext, ClusterSettings, connect
from podidctl.commands.options import Kubeconfig, KubeContext, RequestTimeout, examples
from podidctl.commands.signals import until_signal
from podidctl.report.text import console, print_line
from podidentity.exits import StartError
from podidentity.report import counted
from podidentity.telemetry.logs import LogFormat, configure


def add_to(app: typer.Typer, context: CliContext) -> None:
    """Add the command to *app*."""

    @app.command("bundle", epilog=examples("podidctl bundle support.tar.gz"))
    def _bundle(
        file: Annotated[
            Path | None, typer.Argument(help="The archive. Default: podidctl-bundle-TIME.tar.gz in this directory.")
        ] = None,
        *,
        kubeconfig: Kubeconfig = "",
        kube_context: KubeContext = "",
        request_timeout: RequestTimeout = REQUEST_TIMEOUT,
    ) -> None:
        """Write an archive for support, without credentials, identifiers and names.

        It has doctor's report, the objects of this project, and logs and metrics of NMI and MIC. FILE.names.json, which
        is not for others, has what was replaced by what.
        """
        configure(LogFormat.TEXT, 0)
        settings = context.settings(kube_context, request_timeout, kubeconfig=kubeconfig)
        now = datetime.now(UTC)
        archive = file or Path(f"podidctl-bundle-{now:%Y%m%d-%H%M%S}.tar.gz")
        names = Path(f"{archive}.names.json")
        # Before the cluster is read, which takes long.
        with _new_files(archive, names):
            count = asyncio.run(until_signal(_write_bundle(settings, archive, names, now)))
        print_line(console(), f"{archive}: {counted(count, 'file')}; read them before you send the archive")
        print_line(console(), f"{names}: what was replaced; keep this file")


async def _write_bundle(settings: ClusterSettings, archive: Path, names: Path, now: datetime) -> int:
    """Write the two files. Return the number of files in the archive. Raises StartError."""
    contents, replacements = redacted_files(await _collect(settings))
    _write(archive, _packed(contents, now))
    _write(names, msgspec.json.format(msgspec.json.encode(replacements), indent=2))
    return len(contents)


async def _collect(settings: ClusterSettings) -> Files:
    async with connect(settings) as client:
        return await collect(client)


def _packed(contents: Mapping[str, bytes], at: datetime) -> bytes:
    """Return the archive, in which all files are in one directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"podidctl-bundle/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(at.timestamp()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def _new_files(*paths: Path) -> Iterator[None]:
    """Create *paths*, readable for this user only, and remove them again if the context fails. Raises StartError, also
    if one exists.
    """
    with ExitStack() as created:
        for path in paths:
            with _explained(path):
                path.touch(mode=0o600, exist_ok=False)
            created.callback(path.unlink, missing_ok=True)
        yield
        created.pop_all()


def _write(path: Path, content: bytes) -> None:
    with _explained(path):
        path.write_bytes(content)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise StartError with the next action if *path* cannot be created or written."""
    try:
        yield
    except OSError as error:
        # With a full disk, another file on it would fail too.
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        action = "free space on its disk" if full else "choose another FILE"
        raise StartError(f"{path} cannot be written ({error.strerror}): {action}") from error
