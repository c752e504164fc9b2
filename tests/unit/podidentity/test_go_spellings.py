"""Spellings of flags, and durations as Go's time.ParseDuration reads them. Excluded: the flags of each program."""

import argparse

import pytest

from podidentity.flags import GoParser, UsageError, duration_text, go_bool, go_duration, go_int


@pytest.fixture
def parser() -> GoParser:
    parser = GoParser(prog="thing", description="a thing")
    parser.add_argument("--node", default="")
    parser.add_argument("--forceNamespaced", type=go_bool, default=False)
    parser.add_argument("--nmi-port", type=go_int, default=2579)
    parser.add_argument("--max-hold", type=go_duration, default=45.0)
    parser.add_argument("-v", "--v", type=go_int, default=0)
    parser.add_argument("--version", action="store_true")
    return parser


@pytest.mark.parametrize(
    "args",
    [["--node=a"], ["--node", "a"], ["-node=a"], ["-node", "a"], ["--node=b", "--node=a"]],
    ids=["equals", "two words", "one dash equals", "one dash two words", "last one counts"],
)
def test_every_spelling_of_a_flag_with_a_value_is_accepted(parser: GoParser, args: list[str]) -> None:
    assert parser.parse_args(args).node == "a"


@pytest.mark.parametrize(
    ("args", "value"),
    [
        (["--forceNamespaced"], True),
        (["-forceNamespaced"], True),
        (["--forceNamespaced=true"], True),
        (["--forceNamespaced=T"], True),
        (["--forceNamespaced=1"], True),
        (["--forceNamespaced=false"], False),
        (["--forceNamespaced=0"], False),
        (["--forceNamespaced", "false"], False),
        (["--forceNamespaced", "true"], True),
        (["--forceNamespaced", "--forceNamespaced=false"], False),
    ],
)
def test_a_boolean_is_accepted_with_or_without_a_value(parser: GoParser, args: list[str], value: bool) -> None:
    assert parser.parse_args(args).forceNamespaced is value


def test_flags_after_a_bare_boolean_and_a_flag_without_a_value_are_parsed_and_values_converted(
    parser: GoParser,
) -> None:
    read = parser.parse_args(["--forceNamespaced", "--node", "a", "--version", "--max-hold=1m30s"])
    assert (read.forceNamespaced, read.node, read.version, read.max_hold) == (True, "a", True, 90.0)


@pytest.mark.parametrize("args", [["-v", "4"], ["-v=4"], ["--v", "4"], ["--v=4"], ["--v=0x4"]])
def test_verbosity_is_accepted_in_klogs_spellings(parser: GoParser, args: list[str]) -> None:
    assert parser.parse_args(args).v == 4


def test_a_value_may_look_like_a_flag_be_empty_or_contain_an_equals_sign(parser: GoParser) -> None:
    assert parser.parse_args(["--v", "-1"]).v == -1
    assert parser.parse_args(["--node", "--node"]).node == "--node"
    assert parser.parse_args(["--node="]).node == ""
    assert parser.parse_args(["--node=a=b"]).node == "a=b"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--nodes=a"], "unknown flag --nodes; did you mean --node?"),
        (["--forcenamespaced"], "unknown flag --forcenamespaced; did you mean --forceNamespaced?"),
        (["--zzz"], "unknown flag --zzz (see thing --help)"),
        (["--nod"], "unknown flag --nod; did you mean --node?"),
        (["--node"], "--node needs a value"),
        (["--nmi-port=abc"], "--nmi-port: 'abc' is not a whole number"),
        (["--forceNamespaced=maybe"], "--forceNamespaced: 'maybe' is neither true nor false"),
        (["--max-hold=45"], "--max-hold: '45' lacks a unit"),
        (["--version=1"], "--version takes no value"),
        (["run"], "unexpected argument 'run'"),
        (["--forceNamespaced", "no", "--node=a"], "unexpected argument 'no'"),
        (["--", "a"], "unexpected argument '--'"),
        (["-"], "unexpected argument '-'"),
        (["---node=a"], "unknown flag ---node; did you mean --node?"),
        (["--=a"], "unknown flag --"),
    ],
)
def test_an_unusable_flag_is_rejected_in_one_line_with_the_next_action(
    parser: GoParser, args: list[str], sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parser.parse_args(args)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_hostile_argument_is_quoted_escaped_and_truncated(parser: GoParser) -> None:
    with pytest.raises(UsageError) as refused:
        parser.parse_args(["--x\n\x1b[31m" + "y" * 10_000])
    assert len(str(refused.value)) < 200
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["", "yes", "tRUE", "2", "true "])
def test_an_invalid_boolean_is_rejected_like_in_go(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        go_bool(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("45s", 45.0),
        ("3m", 180.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("10ns", 1e-8),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("-2m", -120.0),
        ("+2m", 120.0),
        ("2562047h", 2562047 * 3600.0),
    ],
)
def test_values_that_go_accepts_are_parsed_equally(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "1", "1.5", "1d", "1 s", " 1s", "1s ", "1s2", "1e3s", ".s", "--1s", "٣s", "1s\n"]
)
def test_values_that_go_rejects_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        go_duration(text)


@pytest.mark.parametrize(("text", "message"), [("45", "'45' lacks a unit; write 45s"), ("2562048h", "292 years")])
def test_an_unusable_duration_is_rejected_with_its_cause(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        go_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (0.1, "100ms"), (1, "1s"), (90, "90s"), (120, "2m"), (5400, "90m"), (7200, "2h")]
)
def test_a_duration_is_written_in_the_largest_unit_that_it_is_a_whole_number_of(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert go_duration(text) == seconds
