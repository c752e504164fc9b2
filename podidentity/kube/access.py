"""Address and credentials of the API server, from a kubeconfig or from the files that Kubernetes mounts into a pod.

This module reads a pod's files. The `kubernetes` package reads a kubeconfig, in a separate process
(`podidentity.kube.kubeconfig`) because it takes 20 MiB. The package is an extra that no image contains.
"""

import asyncio
import logging
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from ssl import SSLContext
from typing import Final
from urllib.parse import urlsplit

import msgspec

from podidentity.hidden_fields import HidingStruct
from podidentity.kube.errors import AccessError

log = logging.getLogger(__name__)

SERVICE_ACCOUNT_ROOT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_FILE_SECONDS: Final = 60.0
"""The kubelet replaces a token at 80 % of its lifetime of at least 10 minutes, so a delay of a minute is acceptable."""
KUBECONFIG_SECONDS: Final = 300.0
"""A kubeconfig may name a program that creates tokens. It runs at most this often unless the server responds with 401.
"""
KUBECONFIG_AGAIN_SECONDS: Final = 30.0
"""Reading a kubeconfig starts a process. Repeated 401 responses do not start it more often than this."""

PROGRAM: Final = Path(__file__).with_name("kubeconfig.py")
PROGRAM_SECONDS: Final = 60.0
"""Time limit for reading a kubeconfig, including its token program, which may send requests to a remote service."""


def _nothing_to_forget() -> None:
    pass


async def _no_authorization() -> str | None:
    return None


class ClusterAccess(msgspec.Struct, frozen=True):
    """Access to one API server, as `Client` needs it."""

    server: str
    """Scheme, host, port and an optional path prefix, without a trailing slash."""
    ssl: SSLContext | None = None
    """None for plain HTTP."""
    authorization: Callable[[], Awaitable[str | None]] = _no_authorization
    """Returns the Authorization header for a new request; None if a client certificate authenticates the client."""
    namespace: str = "default"
    """The namespace of the pod, or of the kubeconfig's context."""
    forget: Callable[[], None] = _nothing_to_forget
    """Invalidates the credentials that `authorization` has cached; called after a 401."""
    server_hostname: str | None = None
    """Expected name in the server's certificate if it is not the host of `server`."""
    proxy: str | None = None


class _CachedAuthorization:
    """Cache of the last Authorization value, with a lifetime."""

    def __init__(
        self,
        read: Callable[[], Awaitable[str | None]],
        keep_seconds: float,
        clock: Callable[[], float],
        again_seconds: float = 0.0,
    ) -> None:
        """*again_seconds* is the minimum time between two calls of `forget` that take effect."""
        self._read = read
        self._again_seconds = again_seconds
        self._forgotten_at = float("-inf")
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._until = float("-inf")
        self._has_value = False
        self._value: str | None = None
        self._lock = asyncio.Lock()

    def remember(self, value: str | None) -> None:
        self._value, self._has_value = value, True
        self._until = self._clock() + self._keep_seconds

    def forget(self) -> None:
        now = self._clock()
        if now - self._forgotten_at >= self._again_seconds:
            self._forgotten_at = now
            self._until = float("-inf")

    async def __call__(self) -> str | None:
        if self._clock() < self._until:
            return self._value
        async with self._lock:
            # Another request may have read them during the wait for the lock.
            if self._clock() >= self._until:
                try:
                    self.remember(await self._read())
                except AccessError as error:
                    if not self._has_value:
                        raise
                    # The old credentials may still be valid. If not, the server responds with 401 and they are read
                    # again.
                    log.warning("credentials could not be read again; using the last ones", extra={"error": error})
                    self.remember(self._value)
        return self._value


def _tls_context(ca: str | None) -> SSLContext:
    """Return a TLS context that trusts the certificate authority in the file *ca*, or the system's ones."""
    context = ssl.create_default_context(cafile=ca)
    if ca is not None:
        # From Python 3.13 on, certificates must conform to RFC 5280. Certificates of old or manually created clusters
        # lack the key identifiers but work with every other client. The chain is still verified.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def in_cluster(
    root: Path = SERVICE_ACCOUNT_ROOT,
    environ: Mapping[str, str] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ClusterAccess:
    """Return the access of a pod's service account. Blocking: reads files.

    The token file is read again at most once a minute, and after a 401. Raises AccessError.
    """
    environ = environ or {}
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise AccessError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, so this process is not in a pod: pass a "
            "kubeconfig with --kubeconfig or KUBECONFIG"
        )
    try:
        context = _tls_context(str(root / "ca.crt"))
    except (OSError, ssl.SSLError) as error:
        raise AccessError(
            f"cannot use the cluster's certificate authority {root / 'ca.crt'} ({error}): set "
            "automountServiceAccountToken on the pod, or pass a kubeconfig with --kubeconfig"
        ) from error
    token_file = root / "token"

    def read_token() -> str:
        try:
            token = token_file.read_text().strip()
        except OSError as error:
            raise AccessError(
                f"cannot read the service account's token {token_file} ({error.strerror}): "
                "set automountServiceAccountToken on the pod"
            ) from error
        if not token:
            raise AccessError(f"the service account's token {token_file} is empty: restart the pod")
        return f"Bearer {token}"

    async def read() -> str:
        return await asyncio.to_thread(read_token)

    authorization = _CachedAuthorization(read, TOKEN_FILE_SECONDS, clock)
    authorization.remember(read_token())
    try:
        namespace = (root / "namespace").read_text().strip()
    except OSError:
        namespace = "default"
    bracketed = f"[{host}]" if ":" in host else host
    server = f"https://{bracketed}:{port}"
    if not _is_server(server):
        raise AccessError(
            f"KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are no address ({server!a}): remove them, or pass a "
            "kubeconfig with --kubeconfig"
        )
    return ClusterAccess(server, context, authorization, namespace, authorization.forget)


class _KubeconfigContent(HidingStruct, frozen=True):
    """Output of `podidentity.kube.kubeconfig`. Certificates and the key are PEM."""

    hidden = frozenset({"authorization", "key"})

    server: str = ""
    context: str = ""
    namespace: str = ""
    authorization: str | None = None
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    verify: bool = True
    server_hostname: str | None = None
    proxy: str | None = None
    problem: str = ""


async def from_kubeconfig(
    path: str, context: str = "", *, clock: Callable[[], float] = time.monotonic
) -> ClusterAccess:
    """Return the access of *context*, by default the current one, in the kubeconfig at *path* (or several paths joined
    by a colon).

    Tokens, also those of an exec plugin, are read again every five minutes and after a 401, then at most once in 30 s,
    from the same context. A new client certificate or server requires a restart. Raises AccessError.
    """
    content = await _read_kubeconfig(path, context)
    if not _is_server(content.server):
        raise AccessError(
            f"the kubeconfig {path} has no server for its {context or 'current'} context: correct it to "
            "https://HOST:PORT without a user name"
        )
    if content.proxy and not _is_url(content.proxy):
        raise AccessError(
            f"the kubeconfig {path} has a proxy-url that cannot be used: correct it to http://HOST:PORT (SOCKS is not "
            "supported)"
        )
    tls: SSLContext | None = None
    if content.server.startswith("https://"):
        try:
            tls = await asyncio.to_thread(_kubeconfig_tls, content)
        except (OSError, ssl.SSLError) as error:
            raise AccessError(f"cannot use the kubeconfig {path} ({error}): correct it, or pass another one") from error

    async def read() -> str | None:
        # With the first read's context: the current one may be another by now, and its token is not for this server.
        again = await _read_kubeconfig(path, content.context)
        if again.server != content.server:
            raise AccessError(
                f"the kubeconfig {path} has another server for its context {content.context} than at the first read: "
                "start this program again to use it"
            )
        return again.authorization

    authorization = _CachedAuthorization(read, KUBECONFIG_SECONDS, clock, KUBECONFIG_AGAIN_SECONDS)
    authorization.remember(content.authorization)
    return ClusterAccess(
        content.server.rstrip("/"),
        tls,
        authorization,
        content.namespace,
        authorization.forget,
        content.server_hostname,
        content.proxy,
    )


async def find(kubeconfig: str, environ: Mapping[str, str], context: str = "") -> ClusterAccess:
    """Return the access by *kubeconfig*, else by KUBECONFIG of *environ*, else by the pod's service account. Raises
    AccessError, also for a *context* without a kubeconfig.
    """
    path = kubeconfig or environ.get("KUBECONFIG", "")
    if path:
        return await from_kubeconfig(path, context)
    if context:
        raise AccessError(
            f"there is no kubeconfig with the context {context}: pass one with --kubeconfig or KUBECONFIG, or in a pod "
            "omit --context to use its service account"
        )
    return await asyncio.to_thread(in_cluster, SERVICE_ACCOUNT_ROOT, environ)


def _is_server(url: str) -> bool:
    """Return whether requests can be sent to *url*, which has no user name: its password would be in messages."""
    return _is_url(url) and "@" not in urlsplit(url).netloc


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        labels = (parts.hostname or "").removesuffix(".").split(".")
        usable = parts.port != 0 and all(0 < len(label) < 64 for label in labels)
    except ValueError:  # port or IPv6 address
        return False
    return usable and parts.scheme in {"http", "https"} and url.isprintable()


async def _read_kubeconfig(path: str, context: str) -> _KubeconfigContent:
    """Return the content of the kubeconfig at *path* for *context*. Raises AccessError. Cancellation kills the process,
    with the programs that it runs unless they have a terminal.
    """
    # A program in a group of its own cannot ask at the terminal, whose Ctrl-C ends all of this process's group.
    own_group = not os.isatty(0)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Otherwise the modules next to the program could replace packages of the same names.
            "-P",
            str(PROGRAM),
            path,
            context,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=own_group,  # uvloop has no process_group
        )
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise AccessError(
            f"cannot start a process to read the kubeconfig {path} ({error}): check the path, and the machine's memory"
        ) from error
    try:
        async with asyncio.timeout(PROGRAM_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise AccessError(
            f"reading the kubeconfig {path} took longer than {PROGRAM_SECONDS:g} s: check the program that it runs"
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # it has ended; macOS raises the latter
                (os.killpg if own_group else os.kill)(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        content = msgspec.json.decode(output, type=_KubeconfigContent)
    except msgspec.DecodeError:
        raise AccessError(
            f"the process that reads the kubeconfig {path} failed (exit code {process.returncode}): see its output "
            "before this line"
        ) from None
    if content.problem:
        raise AccessError(content.problem)
    token = content.authorization or ""
    if not (token.isascii() and token.isprintable()):
        raise AccessError(f"the kubeconfig {path} has a token that no HTTP header can contain: sign in again")
    return content


def _kubeconfig_tls(content: _KubeconfigContent) -> SSLContext:
    """Return the TLS context. Blocking: the ssl module loads certificates only from files, so they are written to
    private temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="kubeconfig-") as folder:

        def stored(name: str, pem: bytes | None) -> str | None:
            if pem is None:
                return None
            path = Path(folder, name)
            # Before the content, so that no other user can ever read the key.
            path.touch(mode=0o600)
            path.write_bytes(pem)
            return str(path)

        context = _tls_context(stored("ca", content.ca))
        if not content.verify:  # the kubeconfig's own insecure-skip-tls-verify
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate := stored("certificate", content.certificate):
            context.load_cert_chain(certificate, stored("key", content.key))
    return context
