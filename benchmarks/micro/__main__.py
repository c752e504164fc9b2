"""`python -m benchmarks.micro`: ns a call as a Markdown table, in some seconds."""

import sys

from benchmarks.micro.measure import rows
from benchmarks.report.table import micro

if __name__ == "__main__":
    sys.stdout.write(micro(rows()) + "\n")
