"""The Go implementation's programs on a node, if REFERENCE_NMI and REFERENCE_MIC name their binaries (v1.8.17)."""

import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.go_implementation import MIC, NMI, named_program
from podidentity_sandbox.processes import ProgramError
from tests.support.go_implementation_chart import ProgramImages
from tests.system.node import oci
from tests.system.node.configuration import REPOSITORY

TAG: Final = "go-implementation"
TRUST: Final = "etc/ssl/certs/ca-certificates.crt"
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}
"""The number of each machine in the header of an ELF file."""
_HEADER: Final = struct.Struct("<4sBB10xHH")
"""Magic, class (2 is 64 bits), byte order (1 is little-endian), type, machine."""


@dataclass(frozen=True, slots=True)
class GoPrograms:
    """Both binaries, for the machine that runs the tests."""

    nmi: Path
    mic: Path

    @property
    def images(self) -> ProgramImages:
        """Return the names of their images on a node."""
        return ProgramImages(f"{REPOSITORY}/nmi:{TAG}", f"{REPOSITORY}/mic:{TAG}")

    def write_images(self, images: Path, folder: Path, certificates: bytes) -> list[Path]:
        """Write an archive of each program's image into *folder*, and return both.

        *images* is the folder of `tools/local-images`: a program replaces this project's in its image. So the image of
        NMI has iptables and conntrack, and both trust the authorities of the image and *certificates* (PEM).
        """
        names = self.images
        archives = []
        for name, program, image in (("nmi", self.nmi, names.nmi), ("mic", self.mic, names.mic)):
            trusted = oci.read_file(images / f"{name}.tar", TRUST) + certificates
            archive = folder / f"{name}-{TAG}.tar"
            with_trust = folder / f"{name}-{TAG}.part.tar"
            oci.add_layer(images / f"{name}.tar", with_trust, image, {TRUST: trusted}, {})
            oci.replace_program(with_trust, archive, image, name, program.read_bytes())
            with_trust.unlink()
            archives.append(archive)
        return archives


def go_programs(environment: Mapping[str, str] = os.environ) -> GoPrograms | None:
    """Return the programs that both variables name; None without both.

    Raise ProgramError if only one is set, or names a file that this machine cannot run.
    """
    found = {variable: named_program(variable, environment) for variable in (NMI, MIC)}
    nmi, mic = found[NMI], found[MIC]
    if nmi is None and mic is None:
        return None
    if nmi is None or mic is None:
        present, missing = (NMI, MIC) if mic is None else (MIC, NMI)
        raise ProgramError(f"{present} is set without {missing}; set both, or unset {present}")
    for variable, program in ((NMI, nmi), (MIC, mic)):
        _check_machine(variable, program)
    return GoPrograms(nmi, mic)


def _check_machine(variable: str, program: Path) -> None:
    """Raise ProgramError unless *program* is an executable of Linux for this machine."""
    machine = platform.machine()
    with program.open("rb") as file:
        header = file.read(_HEADER.size)
    fields = _HEADER.unpack(header) if len(header) == _HEADER.size else (b"", 0, 0, 0, 0)
    if fields[:3] != (b"\x7fELF", 2, 1) or fields[4] != _MACHINES[machine]:
        raise ProgramError(
            f"{variable} is {program}, which is no ELF program for {machine}; set it to a build for {machine}"
        )
