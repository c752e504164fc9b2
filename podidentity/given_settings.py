"""The settings that a command line and an environment give, as values by the fields of `podidentity.settings`."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from podidentity.flags import GoParser, UsageError, quoted
from podidentity.settings import ProgramSettings, flags_of, settings_of


def read_flags(
    program: type[ProgramSettings],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    former_flags: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the values in *argv* (without the program's name) by field; omitted flags are absent.

    *former_flags*: flags whose value is ignored, each with what the program does instead. The result has those that
    *argv* contains as `former_flags`. Raises UsageError, and SystemExit(0) after printing --help.
    """

    def texts() -> Mapping[str, Mapping[str, str]]:
        from podidentity.setting_texts import help_of  # noqa: PLC0415  reads sources, which only --help needs

        return help_of(program, former_flags)

    parser = GoParser(prog=prog, description=description, texts=texts)
    for setting in flags_of(program):
        # Without a metavar, --help shows the name of the field in capitals.
        names = filter(None, (setting.alias, f"--{setting.flag}"))
        parser.add_argument(*names, dest=setting.name, type=setting.read or str, default=None, metavar="…")
    for flag in former_flags:
        parser.add_former_flag(flag)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    former = tuple(flag for flag in former_flags if given.pop(flag, None) is not None)
    return {**given, "former_flags": former} if former else given


def read_environment(program: type[ProgramSettings], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values in *environ* by field; those of missing and empty variables are absent."""
    values = {}
    for setting in settings_of(program):
        texts = (environ.get(variable, "") for variable in setting.env)
        if setting.read is not None and (text := next(filter(None, texts), "")):
            values[setting.name] = setting.read(text)
    return values


def namespaced_by(environ: Mapping[str, str]) -> bool:
    """Return whether FORCENAMESPACED is set in *environ*. As in the Go implementation, it overrides the flag of both
    daemons.

    Raises UsageError for a value that is neither true nor false, because ignoring it would permit more.
    """
    text = environ.get("FORCENAMESPACED", "")
    if text.lower() not in {"", "true", "false", "1", "0"}:
        raise UsageError(f"the environment has FORCENAMESPACED={quoted(text)}; set it to true or false")
    return text.lower() in {"true", "1"}
