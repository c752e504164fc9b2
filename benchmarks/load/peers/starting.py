"""Start of the comparison servers, each as a separate process."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load.servers import Listening, folder, is_listening, running, wait_until
from podidentity_sandbox.processes import python
from podidentity_sandbox.serving import free_ports


@contextmanager
def plain(answer: bytes, *, pods: int, core: int | None = 0) -> Iterator[Listening]:
    """Start the server with uvloop and httptools.

    *answer* is a response of NMI; each pod gets its token. Raises ProgramError.
    """
    with _peer("uvloop+httptools", "plain", answer, pods, core) as server:
        yield server


@contextmanager
def on_aiohttp(answer: bytes, *, pods: int, core: int | None = 0) -> Iterator[Listening]:
    """Start the server with aiohttp."""
    with _peer("aiohttp", "on_aiohttp", answer, pods, core) as server:
        yield server


@contextmanager
def _peer(name: str, module: str, answer: bytes, pods: int, core: int | None) -> Iterator[Listening]:
    (port,) = free_ports(1)
    with folder() as kept:
        given, log = kept / "answer.json", kept / "peer.log"
        given.touch(mode=0o600)
        given.write_bytes(answer)
        options = (f"--port={port}", f"--pods={pods}", f"--answer={given}")
        with running(name, python(f"benchmarks.load.peers.{module}", *options), log=log, core=core) as process:
            wait_until(lambda: is_listening("127.0.0.1", port), process, name, log)
            yield Listening(name, "127.0.0.1", port, (process.pid,))
