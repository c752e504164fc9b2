"""The search of a site that is opened from disk.

A browser starts no worker from a file. The theme would load a substitute from the network. Here each page has the
worker's source as a text, and starts the worker from that.
"""

import json
from pathlib import Path
from typing import Final

SCRIPT: Final = "assets/instead-of-iframe-worker.js"
"""`extra.polyfills` in mkdocs.yml names it, so that it runs before the theme."""
WORKERS: Final = "assets/javascripts/workers/search.*.min.js"

TEXT: Final = """\
if (location.protocol === "file:") {{
  const source = {source};
  const FromAddress = window.Worker;
  window.Worker = class extends FromAddress {{
    constructor() {{
      super(URL.createObjectURL(new Blob([source], {{ type: "text/javascript" }})));
    }}
  }};
}}
"""


def write_worker(site: Path) -> None:
    """Write the script to *site*. Raises ValueError if the theme does not have one worker."""
    workers = sorted(site.glob(WORKERS))
    if len(workers) != 1:
        raise ValueError(f"the theme has {len(workers)} search workers; change WORKERS in tools/site/search.py")
    source = workers[0].read_text().partition("//# sourceMappingURL")[0]
    (site / SCRIPT).write_text(TEXT.format(source=json.dumps(source)))
