"""The official schema of SARIF 2.1.0 (errata 01), which a Go module ships. No Python package has it."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final

from tests.testplane import up

MODULE: Final = "github.com/owenrumney/go-sarif/v3@v3.2.3"
FILE: Final = "pkg/report/v210/sarif/schema.go"
SHA256: Final = "639ddb152218b3b959c5a30cb7e6dabc753801c63a0b73d7e8df060c24055db6"
"""Of the file."""
BEGIN: Final = "const schema = `"


def sarif_schema() -> Any:
    """Return the schema. The first call downloads the module."""

    def make(new: Path) -> None:
        done = subprocess.run(
            [up.go(), "mod", "download", "-json", MODULE], cwd=new, capture_output=True, check=True, timeout=100
        )
        content = (Path(json.loads(done.stdout)["Dir"]) / FILE).read_bytes()
        assert hashlib.sha256(content).hexdigest() == SHA256, "the module has another content"
        (new / "schema.json").write_text(content.decode().partition(BEGIN)[2].rpartition("`")[0])

    return json.loads((up.once(up.CACHE / f"sarif-{SHA256[:16]}", make) / "schema.json").read_text())
