"""The command `nmi`: exit codes, and one line for each start error. Excluded: serving.

Port, API server, rights and iptables are tried where they are
(tests/system/local/nmi/node/test_start_without_api_server.py).
"""

import socket
import subprocess
import sys

import pytest

from nmi import cli
from nmi.settings import Settings
from podidentity.exits import StartError
from podidentity.version import VERSION
from podidentity_sandbox.serving import free_ports
from tests.support.checkout import ROOT


def nmi(*args: str, program: tuple[str, ...] = ("-m", "nmi")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, *program, *args), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr() == (f"nmi {VERSION}\n", "")


def test_help_names_every_flag_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "--forceNamespaced" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--nod=a"], "nmi: unknown flag --nod; did you mean --node? (see nmi --help)\n"),
        ([], "nmi: --node is missing: give the name of the node"),
        (["--node=a", "--nmi-port=70000"], "nmi: --nmi-port is 70000; ports are 1 to 65535\n"),
    ],
)
def test_an_unusable_command_line_is_one_line_and_exit_code_2(
    args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(sentence)
    assert output.err.count("\n") == 1


@pytest.mark.programs
def test_python_m_nmi_returns_the_exit_code() -> None:
    done = nmi("--nod=a")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_missing_extension_module_is_one_line_and_exit_code_1() -> None:
    code = "import sys; sys.modules['_native.index'] = None; from nmi.cli import main; sys.exit(main())"
    done = nmi("--node=a", program=("-c", code))
    assert done.returncode == 1
    assert done.stderr.startswith("nmi: the compiled module _native.index is missing: build it with")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        StartError("do this\nthen that"),
        ExceptionGroup("tasks", [ExceptionGroup("more", [StartError("do this then that")])]),
    ],
    ids=["alone", "out of task groups"],
)
def test_a_start_error_is_one_line_and_exit_code_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: Settings) -> None:
        raise error

    monkeypatch.setattr(cli, "_app", lambda: run)
    assert cli.main(["--node=a"]) == 1
    assert capsys.readouterr().err == "nmi: do this then that\n"


def test_an_unexpected_exception_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_: Settings) -> None:
        raise ExceptionGroup("tasks", [StartError("x"), ZeroDivisionError()])

    monkeypatch.setattr(cli, "_app", lambda: run)
    with pytest.raises(ExceptionGroup):
        cli.main(["--node=a"])


def test_ctrl_c_ends_nmi_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run(_: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_app", lambda: run)
    assert cli.main(["--node=a"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.programs
def test_a_port_in_use_is_reported_without_a_traceback() -> None:
    port, other = free_ports(2)
    with socket.create_server(("", port)):
        done = nmi("--node=a", "--redirect=none", f"--prometheus-port={port}", f"--http-probe-port={other}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"nmi: :{port} is in use: choose another with --prometheus-port"


def test_version_and_usage_do_not_import_the_server() -> None:
    code = (
        "import sys; from nmi.cli import main; main(['--version']); main(['--x']); "
        "print([name for name in ('aiohttp', 'uvloop', 'nmi.app', 'iptc', 'kubernetes') if name in sys.modules])"
    )
    assert nmi(program=("-c", code)).stdout.splitlines()[-1] == "[]"
