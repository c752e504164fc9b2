"""No port of the ephemeral range outlives its socket.

Between the end of a socket and the use of its port, the kernel may give the port to an outgoing connection of any
program. A server then fails to listen, and a client that expects to be refused reaches another server, or itself.
Excluded: sockets that are closed by a call.
"""

import ast
from collections.abc import Iterator

from tests.support.checkout import ROOT

FOLDERS = ("benchmarks", "podidctl", "podidentity_demo", "podidentity_sandbox", "tests", "tools")
OPENED = {"socket.socket", "socket.create_server", "create_server"}
ADVICE = "use free_ports of podidentity_sandbox.serving, or keep the socket open while the port is used"


def closed_with_its_port(source: str) -> Iterator[int]:
    """Yield the lines of each with statement that does nothing but read the port of the socket that it closes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.With) and any(
            ast.unparse(item.context_expr).partition("(")[0] in OPENED for item in node.items
        ):
            port_is_read = any("getsockname()" in ast.unparse(statement) for statement in node.body)
            if port_is_read and all(_only_binds_or_reads(statement) for statement in node.body):
                yield node.lineno


def _only_binds_or_reads(statement: ast.stmt) -> bool:
    text = ast.unparse(statement)
    if isinstance(statement, ast.Assign | ast.Return):
        return "getsockname()" in text
    return isinstance(statement, ast.Expr) and any(f".{call}(" in text for call in ("bind", "setsockopt", "listen"))


CLOSED = """
def free():
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])
with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
"""


def test_no_module_uses_the_port_of_a_closed_socket() -> None:
    assert list(closed_with_its_port(CLOSED)) == [7, 3]
    assert list(closed_with_its_port(f"{CLOSED}    connect(port)")) == [3], "the second socket is open"
    sources = {
        file: source
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "getsockname" in (source := file.read_text(encoding="utf-8"))
    }
    assert len(sources) > 20
    modules = [
        f"{file.relative_to(ROOT)}:{line}" for file, source in sources.items() for line in closed_with_its_port(source)
    ]
    assert modules == [], ADVICE
