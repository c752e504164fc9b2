"""The committed inputs of the targets: corpus/TARGET.txt has one bytes literal of Python on each line.

A line that begins with # names the input on the next line. An input without a name is one that libFuzzer kept because
it reaches code that the others do not reach.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def inputs(target: str) -> Iterator[tuple[str, bytes]]:
    """Yield each input of *target* with the file and the number of its line."""
    for number, line in enumerate((CORPUS / f"{target}.txt").read_text().splitlines(), 1):
        if not line.startswith("#"):
            yield f"{target}.txt:{number}", ast.literal_eval(line)
