"""Entry point of `mic`, also as `python -m mic`.

This module imports nothing at module level: a Ctrl-C while the console script imports it would print a traceback.
"""


def main() -> int:
    """Run the program with the process's arguments and return its exit code."""
    try:
        from mic.cli import main as run  # noqa: PLC0415 - see above
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    import sys

    sys.exit(main())
