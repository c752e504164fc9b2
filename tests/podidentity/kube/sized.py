"""A server that lists objects of any size in pages, as the real one does, and counts the requests."""

import json
from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from tests.podidentity.kube.scripted import Reply, Request, ScriptedServer, status


class SizedServer(ScriptedServer):
    """Every list is answered from `objects`: documents, or their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: Sequence[dict[str, Any] | bytes] = ()
        self.metadata_first = True
        self.gone = 0
        """Number of continue tokens that are refused as expired."""
        self.limits: list[int] = []

    @override
    def _reply(self, request: Request) -> Reply | None:
        if request.method != "GET" or "watch" in request.params or "limit" not in request.params | {"limit": ""}:
            return super()._reply(request)
        limit = int(request.params.get("limit", "0"))
        start = int(request.params.get("continue", "0"))
        self.limits.append(limit)
        if start and self.gone:
            self.gone -= 1
            return status(410, "Expired")
        end = start + limit if limit else len(self.objects)
        bodies = [each if isinstance(each, bytes) else written(each) for each in self.objects[start:end]]
        metadata = {"resourceVersion": "7", **({"continue": str(end)} if end < len(self.objects) else {})}
        parts = [b'"metadata":' + json.dumps(metadata).encode(), b'"items":[' + b",".join(bodies) + b"]"]
        if not self.metadata_first:
            parts.reverse()
        return Reply(b'{"kind":"L",' + b",".join(parts) + b"}\n")


def written(document: dict[str, Any]) -> bytes:
    """As the API server writes it, without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()
