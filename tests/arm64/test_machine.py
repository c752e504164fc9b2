"""The machine with a kernel for arm64: its files, its command line, and what its console means."""

import ast
import itertools
import sys
import time
from pathlib import Path

import pytest

from tests.arm64.emulated import NOT_EMULATED, SO_MEMINFO, SO_ORIGINAL_DST, TCP_INFO
from tests.arm64.machine import TESTS, TOO_SLOW, cause_of_failure, command, names_in, needed, run
from tests.arm64.prepare import ROOT

PASSED = "test_a PASSED\n==== 1 passed in 3.00s ====\narm64 machine: pytest ended with 0\n"


def test_the_run_passes_if_pytest_in_the_machine_passed() -> None:
    assert cause_of_failure(PASSED) == ""


@pytest.mark.parametrize("code", ["1", "5", "137"])
def test_another_exit_code_of_pytest_fails_the_run(code: str) -> None:
    assert f"pytest in the machine ended with {code};" in cause_of_failure(PASSED.replace("with 0", f"with {code}"))


@pytest.mark.parametrize(
    "console",
    [
        "",
        PASSED.replace("arm64 machine", "[    3.1] Kernel panic - not syncing\n# arm64 machine"),
        PASSED.rpartition("0\n")[0],
        PASSED.replace("ended with 0", "ended with 0 (expected)"),
    ],
    ids=["no output", "another line", "cut off", "continued"],
)
def test_a_machine_without_the_line_of_a_result_fails_the_run(console: str) -> None:
    assert cause_of_failure(console).startswith("the machine ended, or its time limit passed, before pytest did")


def test_the_machine_is_bounded_and_has_neither_network_nor_disk() -> None:
    words = command(Path("/k"), Path("/i"))
    options = dict(itertools.pairwise(words))
    assert {each: options[each] for each in ("-smp", "-m", "-nic", "-kernel", "-initrd")} == {
        "-smp": "2",
        "-m": "3G",
        "-nic": "none",
        "-kernel": "/k",
        "-initrd": "/i",
    }
    assert {"-nodefaults", "-no-reboot"} <= set(words)
    assert not {"-drive", "-device", "-netdev", "-virtfs"} & set(words)
    assert "panic=-1" in options["-append"]


def test_the_kernels_modules_of_netfilter_are_needed_and_those_of_devices_are_not() -> None:
    modules = "lib/modules/6.1.0-1-cloud-arm64"
    wanted = [
        modules,
        f"{modules}/modules.dep",
        f"{modules}/kernel/net/netfilter/nf_tables.ko",
        f"{modules}/kernel/drivers/net/veth.ko",
        "usr/share/docs.txt",
        "usr/bin/python3",
    ]
    others = [
        "boot",
        f"boot/vmlinuz-{modules}",
        "usr/share/doc/python3/copyright",
        f"{modules}/kernel/drivers/nvme",
        f"{modules}/kernel/drivers/network/x.ko",
        f"{modules}/kernel/fs/ext4/ext4.ko",
    ]
    assert needed(wanted + others) == wanted


def test_a_folder_precedes_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "a-b").touch()
    names = names_in(tmp_path)
    assert set(names) == {"a", "a-b", "a/b", "a/b/c"}
    assert names.index("a") < names.index("a/b") < names.index("a/b/c")


def test_everything_that_socket_options_exclude_from_qemu_user_runs_in_the_machine() -> None:
    for reason in (TCP_INFO, SO_MEMINFO, SO_ORIGINAL_DST):
        assert {f"tests/native/{each}" for each in NOT_EMULATED[reason]} <= set(TESTS)


@pytest.mark.parametrize("test", [*TESTS, *TOO_SLOW])
def test_a_named_test_exists(test: str) -> None:
    file, _, name = test.partition("[")[0].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions if name else functions


def test_a_test_that_is_too_slow_would_otherwise_run() -> None:
    assert {each.partition("::")[0] for each in TOO_SLOW} <= set(TESTS)


def test_the_output_is_copied_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([sys.executable, "-c", "print('one\\r\\ntwo')"], 60.0) == "one\ntwo\n"
    assert "two" in capsys.readouterr().out


def test_a_machine_is_ended_at_its_time_limit() -> None:
    started = time.monotonic()
    run([sys.executable, "-c", "import time; time.sleep(600)"], 0.1)
    assert time.monotonic() - started < 60
