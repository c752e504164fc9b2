"""The `az` commands in the documentation's blocks, and the record of those that the real Azure CLI has parsed.

`python -m tests.system.sdks.azure_cli --write` writes the record.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.checkout import ROOT

PAGES: Final = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "tests" / "README.md"]
)
RECORD: Final = Path(__file__).with_name("az_commands.json")
VALUE: Final = "VALUE"
"""The word that replaces a variable or the output of a command."""
BLOCK: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```\n", re.MULTILINE | re.DOTALL)


def of_pages() -> list[str]:
    """Return the commands in the blocks of all pages, sorted, each once."""
    commands = set()
    for page in PAGES:
        if page.exists():
            for _, language, block in BLOCK.findall(page.read_text()):
                if not language:
                    commands |= {shlex.join(words) for words in of_shell(block)}
    return sorted(commands)


def of_shell(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of `az` in shell commands, also inside `$(…)`."""
    text = text.replace("\\\n", " ")
    while substitution := re.search(r"\$\((az [^()]*)\)", text):
        yield from _plain(substitution[1])
        text = text[: substitution.start()] + VALUE + text[substitution.end() :]
    yield from _plain(text)


def _plain(text: str) -> Iterator[list[str]]:
    """Yield the commands of *text*, which contains no `$(…)`."""
    for line in text.splitlines():
        if not re.search(r"(?:^|[;|&]|\bdo) *az ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not re.fullmatch(r"[;|&]+", word):
                words.append(re.sub(r"\$\{?\w+\}?", VALUE, word))
                continue
            while words and words[0] in {"do", "then"}:
                del words[0]
            if words[:1] == ["az"]:
                yield words[1:]
            words = []


def record() -> dict[str, list[str] | str]:
    """Return the record: the CLI's version, the commands that it has, and those of its extension aks-preview."""
    return dict(json.loads(RECORD.read_text()))
