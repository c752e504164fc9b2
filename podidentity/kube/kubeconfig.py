"""A separate program that reads a kubeconfig with the `kubernetes` package and prints its content as one JSON object.

`podidentity.kube.access` runs it, so that a daemon does not keep the package in memory for reads at the start and every
few minutes. It may run the programs in the kubeconfig. Its output contains secrets and is only written to a pipe. It
runs as a file with the path and the context as its arguments, and imports nothing of this project.
"""

if __name__ == "__main__":  # before the other imports, so that Ctrl-C prints no traceback during them
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import asyncio
import base64
import importlib
import importlib.util
import json
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

CONTEXTS_MAX = 10
"""Contexts that a message names, each with at most NAME_CHARS characters."""
NAME_CHARS = 100


class ClientConfiguration:
    """Fields that the package sets on its client's Configuration."""

    def __init__(self) -> None:
        self.api_key: dict[str, str] = {}
        self.host = ""
        self.ssl_ca_cert: str | None = None
        self.cert_file: str | None = None
        self.key_file: str | None = None
        self.verify_ssl = True
        self.tls_server_name: str | None = None
        self.proxy: str | None = None


def read_kubeconfig(path: str, context: str = "") -> dict[str, Any]:
    """Return *context*, by default the current one, of the kubeconfig at *path* (or several joined by a colon), with
    its name, or its `problem`.

    The package writes inlined certificates to temporary files of this process, so their content is returned.
    """
    try:
        config = _import_config()
    except ImportError as error:
        return {
            "problem": (
                f"cannot read the kubeconfig {path} without the package kubernetes ({error}): omit --kubeconfig and "
                "KUBECONFIG in a cluster, where the service account is sufficient; for that reason no image has this "
                "package. Elsewhere pipx install --force '.[kubeconfig,mic,nmi]' in a checkout of this project (in a "
                "virtual environment pip install --force-reinstall)"
            )
        }

    load: Callable[..., Awaitable[Any]] = config.load_kube_config  # the package has no annotations
    configuration = ClientConfiguration()

    async def loaded() -> Any:
        return await load(
            config_file=path, context=context or None, client_configuration=configuration, persist_config=False
        )

    errors = BufferingHandler(capacity=100)  # the package logs the failure of an exec plugin and continues without
    errors.setLevel(logging.ERROR)
    logging.getLogger().addHandler(errors)
    try:
        if context and context not in (names := _context_names(config, path)):
            return {"problem": f"the kubeconfig {path} has no context {context[:NAME_CHARS]}: {_advice(names)}"}
        loader = asyncio.run(loaded())
        if errors.buffer and "BearerToken" not in configuration.api_key and configuration.cert_file is None:
            reason = " ".join(errors.buffer[0].getMessage().split())
            return {
                "problem": (
                    f"the program for credentials that the kubeconfig {path} names has failed ({reason}): install it "
                    "(az aks install-cli installs kubelogin), correct it, or pass another kubeconfig"
                )
            }
        fields = loader.current_context.get("context") or {}
        return {
            "server": configuration.host,
            "context": str(loader.current_context["name"]),
            "namespace": str(fields.get("namespace") or "default"),
            "authorization": configuration.api_key.get("BearerToken"),
            "ca": _content(configuration.ssl_ca_cert),
            "certificate": _content(configuration.cert_file),
            "key": _content(configuration.key_file),
            "verify": bool(configuration.verify_ssl),
            "server_hostname": configuration.tls_server_name,
            "proxy": configuration.proxy,
        }
    except (OSError, config.ConfigException) as error:
        return {"problem": f"cannot use the kubeconfig {path} ({error}): correct it, or pass another one"}
    except Exception as error:  # noqa: BLE001 - the package's YAML library raises its own classes
        cause = type(error).__name__
        return {"problem": f"cannot read the kubeconfig {path} ({cause}): is it YAML, with the user of its context?"}


def _context_names(config: Any, path: str) -> list[str]:
    merged = config.kube_config.KubeConfigMerger(path).config
    return sorted(str(context["name"]) for context in merged.safe_get("contexts") or ())


def _advice(names: list[str]) -> str:
    if not names:
        return "it has none, so pass another kubeconfig"
    more = f" and {len(names) - CONTEXTS_MAX} more (kubectl config get-contexts)" if len(names) > CONTEXTS_MAX else ""
    return f"pass one of {', '.join(name[:NAME_CHARS] for name in names[:CONTEXTS_MAX])}{more} to --context"


def _import_config() -> Any:
    """Import and return `kubernetes.aio.config`. Raise ImportError if the package is missing.

    The packages around it import clients for all of Kubernetes, which take half of the time and memory of this program.
    Of these, the module needs only the names of two classes, which it does not use because the caller passes its
    configuration. So empty packages replace them in this process. The package needs aiohttp only to renew an expired
    token of OpenID Connect; its import, half of the remaining time, waits for that.
    """
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("No module named 'kubernetes'")
    for name in ("kubernetes", "kubernetes.aio"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(location, *name.split(".")[1:])) for location in spec.submodule_search_locations]
        sys.modules[name] = package
    client = types.ModuleType("kubernetes.aio.client")
    vars(client).update(ApiClient=None, Configuration=None)
    sys.modules[client.__name__] = client
    _import_at_first_use("aiohttp")
    return importlib.import_module("kubernetes.aio.config")


def _import_at_first_use(name: str) -> None:
    """Let the package *name* be imported when an attribute of it is read. Raise ImportError if it is missing."""
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"No module named {name!r}")
    late = types.ModuleType(name)

    def imported(attribute: str) -> Any:
        if sys.modules[name] is late:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    vars(late)["__getattr__"] = imported
    sys.modules[name] = late


def _content(path: str | None) -> str | None:
    return base64.b64encode(Path(path).read_bytes()).decode() if path else None


def _exists(path: Path) -> bool:
    """Return whether *path* exists. Raise OSError if that is unknown, which `Path.exists` of Python 3.14 does not."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def main(path: str, context: str = "") -> None:
    """Print the content of the kubeconfig at *path* for *context*."""
    shown = path.encode(errors="replace").decode()  # a path of bytes that are no text
    try:
        there = any(_exists(Path(part).expanduser()) for part in path.split(":") if part)
    except OSError as error:  # a directory without permission
        result = {"problem": f"cannot use the kubeconfig {shown} ({error.strerror}): correct it, or pass another one"}
    else:
        missing = {"problem": f"the kubeconfig {shown} does not exist: correct --kubeconfig or KUBECONFIG"}
        result = read_kubeconfig(path, context) if there else missing
    try:
        output = json.dumps(result, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        problem = f"the kubeconfig {shown} has characters that are no text, or its name has: correct it"
        output = json.dumps({"problem": problem}).encode()
    sys.stdout.buffer.write(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
