"""The picture of the access report in docs/podidctl.md: a generated cluster in a headless Chromium."""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from podidctl.access.html.document import document
from podidctl.access.review import review
from tests.support.browser import open_page
from tests.support.podidctl.access.generated_cluster import generated_cluster

PICTURE: Final = Path(__file__).parents[1] / "docs" / "access-report.png"
PODS, IDENTITIES, NODES = 60, 9, 6
SEARCH: Final = "team-3/identity-003"


async def write(picture: Path = PICTURE) -> None:
    """Write the picture. Raises AssertionError without Chromium."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        path = folder / "access.html"
        report = await asyncio.to_thread(lambda: review(generated_cluster(PODS, IDENTITIES, NODES)))
        await asyncio.to_thread(path.write_text, document(report), encoding="utf-8")
        async with open_page(folder / "profile", width=1280, height=900) as page:
            await page.open(path)
            await page.until("document.documentElement?.dataset.ready === 'yes'")
            await page.type("/")
            await page.type(SEARCH)
            await page.press("Enter")
            await page.until("document.getElementById('details').textContent.includes('identity-003')")
            await page.evaluate("new Promise((done) => setTimeout(done, 300))")
            await page.screenshot(picture)


if __name__ == "__main__":
    asyncio.run(write())
