"""The build of the site, for tests."""

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.docs.sentences import ROOT

PYTHON: Final = ROOT / ".venv/.site/bin/python"
BUILD_SECONDS: Final = 100


def build(root: Path, site: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Build the site of the repository *root* into *site*, as `make site` does."""
    assert PYTHON.exists(), "the site's programs are missing; run: make .venv/.site/.installed"
    given = {key: value for key, value in os.environ.items() if key != "PROJECT_URL"}
    command = [str(PYTHON), "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, f"--config-file={root / 'mkdocs.yml'}", f"--site-dir={site}"],
        cwd=ROOT,
        env={**given, "NO_MKDOCS_2_WARNING": "1", "SITE_ROOT": str(root), **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
