"""Tables of all flags, from the settings of each program."""

from collections.abc import Mapping
from typing import Final

import mic.startup.settings
import nmi.settings
from nmi.settings import FORMER_FLAGS
from podidentity.setting_texts import default_of, effects_of, groups_of, sentence
from podidentity.settings import REQUIRED, GoSetting, ProgramSettings, Setting, settings_of
from tools.handbook.tables import table

PROGRAMS: Final[Mapping[str, type[ProgramSettings]]] = {
    "nmi": nmi.settings.NmiSettings,
    "mic": mic.startup.settings.MicSettings,
}


_SPECIAL_VARIABLES: Final = (
    ["`FORCENAMESPACED`", "both", "`true` or `1` has the effect of `--forceNamespaced`, independent of that flag."],
    [
        ", ".join(f"`{name}`" for name in mic.startup.settings.CLOUD_VARIABLES),
        "MIC",
        "The content of azure.json, if `--cloudconfig` is empty.",
    ],
)
"""The rows of variables that are not read as those of `Setting.env`."""


def made() -> str:
    """Return the generated part of docs/flags.md."""
    tables = (f"## {name}\n\n{_table(program)}" for name, program in PROGRAMS.items())
    former = table(["flag", "instead"], [[f"`--{flag}`", sentence(text)] for flag, text in FORMER_FLAGS.items()])
    advice = "NMI accepts these former flags with any value, and warns about each when it serves. Remove them."
    return "\n\n".join((_variables(), *tables, f"## Flags without effect\n\n{advice}\n\n{former}"))


def _variables() -> str:
    readers: dict[tuple[str, str], list[str]] = {}
    for name, program in PROGRAMS.items():
        effects = effects_of(program)
        for setting in settings_of(program):
            if setting.env and setting.read is not None:
                variables = ", ".join(f"`{variable}`" for variable in setting.env)
                meaning = (
                    f"The value of `--{setting.flag}` without that flag." if setting.flag else effects[setting.name]
                )
                readers.setdefault((variables, meaning), []).append(name.upper())
    rows = [[names, "both" if len(by) > 1 else by[0], meaning] for (names, meaning), by in readers.items()]
    return table(["variable", "read by", "meaning"], [*rows, *_SPECIAL_VARIABLES])


def _table(program: type[ProgramSettings]) -> str:
    effects = effects_of(program)
    columns = ["flag", "default", "effect", "Go implementation"]
    tables = (
        f"**{heading}**\n\n{table(columns, [_row(setting, effects[setting.name]) for setting in flags])}"
        for heading, flags in groups_of(program).items()
    )
    return "\n\n".join(tables)


def _row(setting: Setting, effect: str) -> list[str]:
    names = f"`--{setting.flag}`" + (f", `{setting.alias}`" if setting.alias else "")
    return [names, _default(setting), effect, _reference(setting)]


def _default(setting: Setting) -> str:
    if setting.default is REQUIRED:
        return "required"
    text = default_of(setting)
    return f"`{text}`" if text else ""


def _reference(setting: Setting) -> str:
    if not isinstance(setting, GoSetting):
        return ""
    return f"yes, default `{setting.go_default}`" if setting.go_default else "yes"
