"""Write the file: `python -m tools.dashboard`."""

from tools.dashboard import FILE, text

FILE.write_text(text())
