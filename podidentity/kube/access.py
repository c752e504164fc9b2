"""Where the API server is and who we are to it: from a kubeconfig, or from what Kubernetes mounts into a pod.

Inside a pod the three facts are read here. The `kubernetes` package, which costs 20 MiB, is imported only for a
kubeconfig, and only in `from_kubeconfig`.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final

from podidentity.kube.errors import AccessError

log = logging.getLogger(__name__)

SERVICE_ACCOUNT_ROOT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_FILE_SECONDS: Final = 60.0
"""The kubelet replaces a token at 80 % of its life, at least 10 minutes long: a minute late is early enough."""
KUBECONFIG_SECONDS: Final = 300.0
"""A kubeconfig may name a program that makes tokens: it is not run more often than this unless the server says 401."""


def _nothing_to_forget() -> None:
    pass


async def _no_authorization() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Everything `Client` needs to know of one API server."""

    server: str
    """Scheme, host, port and perhaps a path prefix; no slash at the end."""
    ssl: SSLContext | None = None
    """None for plain HTTP."""
    authorization: Callable[[], Awaitable[str | None]] = _no_authorization
    """The value of the Authorization header for a request made now; None where a client certificate speaks for us."""
    namespace: str = "default"
    """The namespace of the pod, or of the kubeconfig's context."""
    forget: Callable[[], None] = _nothing_to_forget
    """Called after a 401: what `authorization` remembers is not to be used again."""
    server_hostname: str | None = None
    """The name to expect in the server's certificate where it is not the host of `server`."""
    proxy: str | None = None


class _Remembered:
    """The last Authorization value and how long it may be used without reading it again."""

    def __init__(
        self, read: Callable[[], Awaitable[str | None]], keep_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._read = read
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._until = float("-inf")
        self._value: str | None = None
        self._lock = asyncio.Lock()

    def remember(self, value: str | None) -> None:
        self._value = value
        self._until = self._clock() + self._keep_seconds

    def forget(self) -> None:
        self._until = float("-inf")

    async def __call__(self) -> str | None:
        if self._clock() < self._until:
            return self._value
        async with self._lock:
            if self._clock() >= self._until:
                try:
                    self.remember(await self._read())
                except AccessError as error:
                    if self._value is None:
                        raise
                    # The old credentials may still be good; if not, the server says 401 and we come back.
                    log.warning("credentials could not be read again; going on with the last", extra={"error": error})
                    self.remember(self._value)
        return self._value


def in_cluster(
    root: Path = SERVICE_ACCOUNT_ROOT,
    environ: Mapping[str, str] | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ClusterAccess:
    """The access of a pod's service account; reads files, so call it before the loop is busy.

    The token file is read again at most once a minute, and after a 401. Raises AccessError.
    """
    environ = environ or {}
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise AccessError(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, so this is not a pod: "
            "name a kubeconfig with --kubeconfig or KUBECONFIG"
        )
    try:
        context = ssl.create_default_context(cafile=str(root / "ca.crt"))
    except (OSError, ssl.SSLError) as error:
        raise AccessError(
            f"cannot use the cluster's certificate authority {root / 'ca.crt'} ({error}): "
            "set automountServiceAccountToken on the pod, or name a kubeconfig with --kubeconfig"
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

    remembered = _Remembered(read, TOKEN_FILE_SECONDS, clock)
    remembered.remember(read_token())
    try:
        namespace = (root / "namespace").read_text().strip()
    except OSError:
        namespace = "default"
    bracketed = f"[{host}]" if ":" in host else host
    return ClusterAccess(f"https://{bracketed}:{port}", context, remembered, namespace, remembered.forget)


@dataclass(frozen=True, slots=True)
class _Loaded:
    server: str
    ssl: SSLContext | None
    authorization: str | None
    namespace: str
    server_hostname: str | None
    proxy: str | None


async def from_kubeconfig(path: str, *, clock: Callable[[], float] = time.monotonic) -> ClusterAccess:
    """The access that the current context of the kubeconfig at *path* describes (several paths joined by a colon too).

    Tokens, also those of an exec plugin, are read again every five minutes and after a 401; a new client certificate
    or another server needs a restart. Raises AccessError.
    """
    loaded = await asyncio.to_thread(_load, path)

    async def read() -> str | None:
        return (await asyncio.to_thread(_load, path)).authorization

    remembered = _Remembered(read, KUBECONFIG_SECONDS, clock)
    remembered.remember(loaded.authorization)
    return ClusterAccess(
        loaded.server,
        loaded.ssl,
        remembered,
        loaded.namespace,
        remembered.forget,
        loaded.server_hostname,
        loaded.proxy,
    )


async def find(kubeconfig: str, environ: Mapping[str, str]) -> ClusterAccess:
    """*kubeconfig* if given, else KUBECONFIG of *environ*, else the pod's service account. Raises AccessError."""
    path = kubeconfig or environ.get("KUBECONFIG", "")
    if path:
        return await from_kubeconfig(path)
    return await asyncio.to_thread(in_cluster, SERVICE_ACCOUNT_ROOT, environ)


def _load(path: str) -> _Loaded:
    """Blocking, in a thread of its own: the package reads files, and runs programs in an event loop."""
    from kubernetes.aio import config  # noqa: PLC0415  # 20 MiB that a pod does not need

    several = [Path(part).expanduser() for part in path.split(":") if part]
    if not any(part.exists() for part in several):
        raise AccessError(f"there is no kubeconfig at {path}: correct --kubeconfig or KUBECONFIG")

    class Found:
        """What the package would put into its client's Configuration."""

        def __init__(self) -> None:
            self.api_key: dict[str, str] = {}
            self.host = ""
            self.ssl_ca_cert: str | None = None
            self.cert_file: str | None = None
            self.key_file: str | None = None
            self.verify_ssl = True
            self.tls_server_name: str | None = None
            self.proxy: str | None = None

    async def read_in_a_loop_of_its_own(found: Found) -> str:
        load: Callable[..., Awaitable[Any]] = config.load_kube_config  # the package has no annotations
        loader = await load(config_file=path, client_configuration=found, persist_config=False)
        context = loader.current_context.get("context") or {}
        return str(context.get("namespace") or "default")

    found = Found()
    try:
        namespace = asyncio.run(read_in_a_loop_of_its_own(found))
        context = _tls(found.ssl_ca_cert, found.cert_file, found.key_file, verify=found.verify_ssl)
    except (OSError, ssl.SSLError, config.ConfigException) as error:
        raise AccessError(f"cannot use the kubeconfig {path} ({error}): correct it, or name another one") from error
    except Exception as error:  # the package's YAML and TLS libraries raise classes of their own
        raise AccessError(f"cannot read the kubeconfig {path} ({type(error).__name__}): is it YAML?") from error
    if not found.host.startswith(("http://", "https://")):
        raise AccessError(f"the kubeconfig {path} names no server for its current context: correct it")
    return _Loaded(
        server=found.host.rstrip("/"),
        ssl=context if found.host.startswith("https://") else None,
        authorization=found.api_key.get("BearerToken"),
        namespace=namespace,
        server_hostname=found.tls_server_name,
        proxy=found.proxy,
    )


def _tls(ca: str | None, certificate: str | None, key: str | None, *, verify: bool) -> SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if not verify:  # the kubeconfig's own insecure-skip-tls-verify
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        context.load_cert_chain(certificate, key)
    return context
