"""`python -m benchmarks.guard check | write | functions | costs`.

Compare the counts with the baseline, write them as the baseline, list the functions that spend the instructions, or
list the costs of the requests that cost most.
"""

import argparse
import sys

from benchmarks.guard import baseline
from benchmarks.guard.costs import costs, function_tables, table
from benchmarks.guard.counting import counted


def main() -> int:
    """Run the command line. Return 0 if the counts equal the baseline."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("what", choices=["check", "write", "functions", "costs"])
    what = parser.parse_args().what
    if what == "functions":
        sys.stdout.write("\n\n".join(function_tables()) + "\n")
        return 0
    if what == "costs":
        sys.stdout.write(table(costs()) + "\n")
        return 0
    environment, counts = baseline.current_environment(), counted()
    every = baseline.read() if baseline.BASELINE.exists() else []
    if what == "write":
        others = [entry for entry in every if entry.environment != environment]
        baseline.write([*others, baseline.Baseline(environment, counts)])
        return 0
    base = baseline.nearest(every, environment)
    deviations = baseline.deviations(base, environment, counts)
    if deviations:
        sys.stderr.write(baseline.message(deviations, base, environment) + "\n")
    return 1 if deviations else 0


if __name__ == "__main__":
    sys.exit(main())
