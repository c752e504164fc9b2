"""A program of the kernel that replaces the destination of connections, in the form of the Guest Proxy Agent's.

It is attached to a control group of its own, so it affects only the processes that `words` starts. Needs root and a
mounted cgroup2 (https://docs.kernel.org/bpf/prog_cgroup_sockopt.html; `struct bpf_sock_addr` and `union bpf_attr` of
linux/bpf.h).
"""

import ctypes
import os
import platform
import socket
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nmi.node.pod_node_imds import IMDS

AGENT_PORT = 3080
_SYSCALL = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_ATTACH = 5, 8
_SOCK_ADDR, _CONNECT4 = 18, 10
_USER_IP4, _USER_PORT = 4, 24
"""Offsets in struct bpf_sock_addr, both values in network order."""


def _number(data: bytes) -> int:
    """Return four bytes in network order as the kernel reads them into a register."""
    return int(struct.unpack("=i", data)[0])


def _program() -> bytes:
    port, agent = (socket.htons(number) for number in (80, AGENT_PORT))
    imds, loopback = (_number(socket.inet_aton(address)) for address in (IMDS, "127.0.0.1"))
    instructions = [
        (0x61, 0x12, _USER_IP4, 0),  # r2 = ctx->user_ip4
        (0x56, 0x02, 6, imds),  # if w2 != imds, to the end
        (0x61, 0x12, _USER_PORT, 0),
        (0x56, 0x02, 4, port),
        (0xB7, 0x02, 0, loopback),
        (0x63, 0x21, _USER_IP4, 0),  # ctx->user_ip4 = r2
        (0xB7, 0x02, 0, agent),
        (0x63, 0x21, _USER_PORT, 0),
        (0xB7, 0x00, 0, 1),  # r0 = 1: permit the connection
        (0x95, 0x00, 0, 0),  # exit
    ]
    return b"".join(struct.pack("=BBhi", *instruction) for instruction in instructions)


def _bpf(command: int, attributes: bytes) -> int:
    """Return the result of bpf(2). Raise OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(_SYSCALL[platform.machine()], command, ctypes.c_char_p(attributes), len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _load() -> int:
    """Return the descriptor of the program, which the caller closes."""
    code, licence = ctypes.create_string_buffer(_program()), ctypes.create_string_buffer(b"GPL")
    # The type of the program, the number of instructions and two addresses; from byte 68 the type of its attachment.
    head = struct.pack("=IIQQ", _SOCK_ADDR, len(code) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return _bpf(_PROG_LOAD, head.ljust(68, b"\0") + struct.pack("=I", _CONNECT4))


@contextmanager
def connect_hook() -> Iterator[tuple[str, ...]]:
    """Yield the words by which a command starts with the program in effect."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    group = next(Path(words[1]) for words in mounts if words[2] == "cgroup2") / f"podid-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        program, target = _load(), os.open(group, os.O_RDONLY)
        try:
            _bpf(_PROG_ATTACH, struct.pack("=IIII", target, program, _CONNECT4, 0))
        finally:
            os.close(program)
            os.close(target)
        yield "sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group / "cgroup.procs")
    finally:
        group.rmdir()  # which also detaches the program
