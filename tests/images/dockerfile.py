"""Stages and instructions of the Dockerfile. The parser supports only the syntax that this Dockerfile uses."""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and the instructions after it, each as its name and its arguments on one line."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == word]


def read(text: str) -> tuple[list[tuple[str, str]], dict[str, Stage]]:
    """Return the instructions before the first stage, and the stages by name."""
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    before: list[tuple[str, str]] = []
    stages: dict[str, Stage] = {}
    current = before
    for line in lines.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found = re.fullmatch(r"(\S+) AS (\S+)", rest)
            assert found is not None, f"a stage without a name: {line}"
            stage = stages[found[2]] = Stage(found[2], found[1])
            current = stage.instructions
        else:
            current.append((word, " ".join(rest.split())))
    return before, stages
