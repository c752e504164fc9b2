"""A program of its own: reads a kubeconfig with the `kubernetes` package and says on standard output what is in it.

`podidentity.kube.access` runs it, so that a daemon does not keep the package's 700 modules, 20 MiB, for what it does at
the start and every few minutes. It may run the programs that the kubeconfig names. What it says holds secrets: it goes
through a pipe alone. Imports nothing of ours: it is run as a file, its path the one argument. One JSON object out.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any


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


def told(path: str) -> dict[str, Any]:
    """The current context of the kubeconfig at *path* (several joined by a colon too), or its `problem`.

    The package leaves inlined certificates in files that go with this process, so their content is told.
    """
    try:
        from kubernetes.aio import config  # noqa: PLC0415  # half a second that a missing kubeconfig need not take
    except ImportError as error:
        return {
            "problem": f"cannot read the kubeconfig {path} without the package kubernetes ({error}): "
            "pip install 'aad-pod-identity[kubeconfig]', or leave out --kubeconfig and KUBECONFIG in a cluster, where "
            "the service account is enough; for that reason no image has this package"
        }

    load: Callable[..., Awaitable[Any]] = config.load_kube_config  # the package has no annotations
    found = Found()

    async def loaded() -> Any:
        return await load(config_file=path, client_configuration=found, persist_config=False)

    try:
        loader = asyncio.run(loaded())
        context = loader.current_context.get("context") or {}
        return {
            "server": found.host,
            "namespace": str(context.get("namespace") or "default"),
            "authorization": found.api_key.get("BearerToken"),
            "ca": _content(found.ssl_ca_cert),
            "certificate": _content(found.cert_file),
            "key": _content(found.key_file),
            "verify": bool(found.verify_ssl),
            "server_hostname": found.tls_server_name,
            "proxy": found.proxy,
        }
    except (OSError, config.ConfigException) as error:
        return {"problem": f"cannot use the kubeconfig {path} ({error}): correct it, or name another one"}
    except Exception as error:  # noqa: BLE001 - the package's YAML library raises classes of its own
        return {"problem": f"cannot read the kubeconfig {path} ({type(error).__name__}): is it YAML?"}


def _content(path: str | None) -> str | None:
    return base64.b64encode(Path(path).read_bytes()).decode() if path else None


def main(path: str) -> None:
    """Say it."""
    try:
        there = any(Path(part).expanduser().exists() for part in path.split(":") if part)
    except OSError as error:  # a folder of somebody else's
        answer = {"problem": f"cannot use the kubeconfig {path} ({error.strerror}): correct it, or name another one"}
    else:
        missing = {"problem": f"there is no kubeconfig at {path}: correct --kubeconfig or KUBECONFIG"}
        answer = told(path) if there else missing
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
