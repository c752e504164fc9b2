"""Make the picture: `python -m tools.dashboard_picture` (three minutes; needs Prometheus, `make setup`)."""

import asyncio
import tempfile
from pathlib import Path

from tests.repository.observability.pack import dashboard
from tools.dashboard_picture.capture import capture
from tools.dashboard_picture.drawing import PICTURE, draw

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        draw(dashboard()["panels"], asyncio.run(capture(Path(folder))), PICTURE)
