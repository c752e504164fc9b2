"""The settings of a program as one frozen struct, which is also the table of its flags and environment variables.

A field is `name: Annotated[type, Setting(...)] = default`. Its docstring is its text in `--help` and docs/flags.md, and
a comment after an empty line is a heading in both (`podidentity.setting_texts`). `podidentity.flags` defines the syntax
of values and command lines.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from enum import EnumType
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin

import msgspec

from podidentity.flags import (
    comma_list,
    go_bool,
    go_duration,
    go_int,
    one_of,
)

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

_READERS: Final[Mapping[object, Callable[[str], Any]]] = {
    bool: go_bool,
    int: go_int,
    float: go_duration,
    str: str,
    Path | None: Path,
    Path: Path,
    tuple[str, ...]: comma_list,
}
"""The parser of each type. A StrEnum has that of its values."""


class Range(NamedTuple):
    """The least and the greatest value of a number; durations are in seconds."""

    least: float
    greatest: float


REQUIRED: Final = object()
"""The default of a setting without one."""
PORT: Final = Range(1, 65_535)
VERBOSITY: Final = Range(0, 2**31 - 1)
"""klog accepts any value, and some charts set 100."""


class Setting(msgspec.Struct, frozen=True):
    """The annotation of a setting: the sources of its value, and the values that it may have."""

    flag: str = ""
    """Same spelling as in the Go implementation, including inconsistencies: existing charts depend on it. Empty: the
    setting has no flag."""
    range: Range | None = None
    read: Callable[[str], Any] | None = None
    """Parser of the value. The default follows from the type; a type without a parser is not read here."""
    alias: str = ""
    """Another name of the flag, with its dashes."""
    env: tuple[str, ...] = ()
    """The environment variables that count without the flag. The first that is not empty has the value."""
    secret: bool = False
    """Whether no log line contains the value."""
    redact: Callable[[str], str] = str
    """Returns the text for log lines of a part of a list."""
    name: str = ""
    """The field's name. `settings_of` adds it, and the default."""
    default: Any = REQUIRED

    @property
    def source(self) -> str:
        """Return the name by which an operator sets it."""
        return f"--{self.flag}" if self.flag else self.env[0]

    def shown(self, value: object) -> str:
        """Return *value* for log lines."""
        if self.secret:
            return "***"
        if isinstance(value, tuple | frozenset):
            return ",".join(sorted(self.redact(str(part)) for part in value))
        return str(value)


class GoSetting(Setting, frozen=True):
    """The annotation of a setting whose flag the Go implementation has, too."""

    go_default: str = ""
    """The default of the Go implementation, if it is another one."""


class ProgramSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a program, with those of both programs that have no flag. A subclass has all others, and checks
    them when it is constructed."""

    service_host: Annotated[str, Setting(env=("KUBERNETES_SERVICE_HOST",))] = ""
    """Host of the API server. Kubernetes sets it in each pod."""
    service_port: Annotated[str, Setting(env=("KUBERNETES_SERVICE_PORT",))] = ""
    """Port of the API server. Kubernetes sets it in each pod."""
    azure_environment_file: Annotated[Path | None, Setting(env=("AZURE_ENVIRONMENT_FILEPATH",))] = None
    """JSON file with the description of a private cloud (Azure Stack Hub)."""

    @property
    def cluster_environment(self) -> Mapping[str, str]:
        """The environment variables by which a pod finds its API server."""
        variables = {"KUBERNETES_SERVICE_HOST": self.service_host, "KUBERNETES_SERVICE_PORT": self.service_port}
        return {name: value for name, value in variables.items() if value}

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text()})"

    @override
    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Return names and values without secrets. msgspec's default has every field."""
        return list(self.describe().items())

    def describe(self) -> dict[str, str]:
        """Return every setting that differs from its default; secrets as ***."""
        return {setting.name: setting.shown(value) for setting, value in self._changed()}

    def text(self) -> str:
        """Return the same as a command line, for the log line at the start. Variables are in it like flags."""
        return " ".join(f"{setting.source}={setting.shown(value)}" for setting, value in self._changed())

    def out_of_range(self) -> Iterator[tuple[Setting, Range, float]]:
        """Yield each setting whose value is outside of its range, with the range and the value."""
        for setting in settings_of(type(self)):
            if setting.range is not None:
                value = getattr(self, setting.name)
                if not setting.range.least <= value <= setting.range.greatest:
                    yield setting, setting.range, value

    def _changed(self) -> Iterator[tuple[Setting, object]]:
        # Log lines are cut at their end: what the operator sets is first.
        in_each_pod = ProgramSettings.__struct_fields__
        for setting in sorted(settings_of(type(self)), key=lambda setting: setting.name in in_each_pod):
            value = getattr(self, setting.name)
            if value != setting.default:
                yield setting, value


@cache
def settings_of(program: type[ProgramSettings]) -> tuple[Setting, ...]:
    """Return the settings of a program in the order of its fields."""
    settings = []
    for field in msgspec.structs.fields(program):
        if get_origin(field.type) is Annotated:
            of, setting = get_args(field.type)
            read = setting.read or _READERS.get(of) or (one_of(of) if isinstance(of, EnumType) else None)
            default = REQUIRED if field.required else field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            settings.append(msgspec.structs.replace(setting, name=field.name, read=read, default=default))
    return tuple(settings)


def flags_of(program: type[ProgramSettings]) -> tuple[Setting, ...]:
    """Return the settings that have a flag."""
    return tuple(setting for setting in settings_of(program) if setting.flag)
