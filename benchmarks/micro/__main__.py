"""`python -m benchmarks.micro`: prints ns per call as a Markdown table within seconds."""

import sys

from benchmarks.micro.measure import rows
from benchmarks.report.table import micro

if __name__ == "__main__":
    sys.stdout.write(micro(rows()) + "\n")
