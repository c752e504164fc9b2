"""Import of prometheus_client without its HTTP servers and clients.

The package imports its module `exposition` in any case, and this imports http.server, wsgiref, urllib.request and
email: 4 MiB. The programs do not use it: `podidentity.telemetry.metrics` writes the text format. A program calls
`import_prometheus` before any other module imports prometheus_client.
"""

import functools
import importlib
import sys
import types
from typing import Any

EXPOSITION = "prometheus_client.exposition"


def import_prometheus() -> None:
    """Import prometheus_client. Its functions of `exposition` import that module with their first call.

    No effect after another import of prometheus_client.
    """
    if "prometheus_client" in sys.modules:
        return
    late = types.ModuleType(EXPOSITION)
    vars(late)["__getattr__"] = lambda name: functools.partial(_call, name)
    sys.modules[EXPOSITION] = late
    try:
        package = importlib.import_module("prometheus_client")
        del vars(package)["exposition"]
    finally:
        del sys.modules[EXPOSITION]


def _call(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(EXPOSITION), name)(*arguments, **options)
