"""The binaries of the Go implementation (v1.8.17) that environment variables name.

The binaries are not a part of this project, and `make setup` does not install them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from podidentity_sandbox.processes import ProgramError

NMI: Final = "REFERENCE_NMI"
MIC: Final = "REFERENCE_MIC"
_NAMES: Final = {NMI: "nmi", MIC: "mic"}


def named_program(variable: str, environment: Mapping[str, str]) -> Path | None:
    """Return the path in *variable*, NMI or MIC; None if it is not set.

    Raise ProgramError if the file is not executable.
    """
    given = environment.get(variable, "")
    if not given:
        return None
    program = Path(given).absolute()
    if not program.is_file() or not os.access(program, os.X_OK):
        raise ProgramError(
            f"{variable} is {given}, which is not an executable file; set it to the path of the Go implementation's "
            f"{_NAMES[variable]}"
        )
    return program
