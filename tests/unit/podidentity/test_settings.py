"""The annotations of the settings of both programs, which no type checker reads."""

import re

import pytest

import mic.startup.settings
import nmi.settings
from podidentity.given_settings import read_flags
from podidentity.setting_texts import WITHOUT_EFFECT, default_of, effects_of, groups_of
from podidentity.settings import REQUIRED, ProgramSettings, flags_of, settings_of


@pytest.mark.parametrize("program", [nmi.settings.NmiSettings, mic.startup.settings.MicSettings])
def test_each_setting_has_a_text(program: type[ProgramSettings]) -> None:
    for name, effect in effects_of(program).items():
        sentence = re.sub(r" (From \S+ to \S+|One of `.*`|Separated by commas)\.$", "", effect)
        assert re.fullmatch(r"\S.+\.", sentence), name


@pytest.mark.parametrize("program", [nmi.settings.NmiSettings, mic.startup.settings.MicSettings])
def test_each_flag_has_a_default_in_its_syntax_and_range(program: type[ProgramSettings]) -> None:
    for setting in flags_of(program):
        assert setting.read is not None, setting.flag
        if setting.default not in {REQUIRED, None}:
            assert setting.read(default_of(setting)) == setting.default, setting.flag
        if setting.range is not None:
            assert setting.range.least <= setting.default <= setting.range.greatest, setting.flag


@pytest.mark.parametrize("program", [nmi.settings.NmiSettings, mic.startup.settings.MicSettings])
def test_each_setting_has_a_source_of_its_own(program: type[ProgramSettings]) -> None:
    sources = [setting.source for setting in settings_of(program)]
    assert all(sources)
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("program", [nmi.settings.NmiSettings, mic.startup.settings.MicSettings])
def test_help_has_the_text_of_each_flag(program: type[ProgramSettings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_flags(program, ["--help"], prog="", description="")
    # argparse also breaks lines at hyphens.
    printed = "".join(capsys.readouterr().out.split())
    effects = effects_of(program)
    for setting in flags_of(program):
        assert "".join(effects[setting.name].split()) in printed, setting.flag


@pytest.mark.parametrize("program", [nmi.settings.NmiSettings, mic.startup.settings.MicSettings])
def test_help_has_each_flag_once_in_its_group_and_those_without_effect_last(
    program: type[ProgramSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_flags(program, ["--help"], prog="", description="", former_flags={"old": "it is a constant"})
    lines = capsys.readouterr().out.splitlines()
    headings = [line.removesuffix(":") for line in lines if re.fullmatch(r"[A-Z][^.]+:", line)]
    groups = groups_of(program)
    assert headings == list(groups)
    assert headings[-1] == WITHOUT_EFFECT
    assert lines.index("  --old …               It is a constant.") > lines.index(f"{WITHOUT_EFFECT}:")
    assert all(len(flags) <= 15 for name, flags in groups.items() if name != WITHOUT_EFFECT)
    flags = [name.split()[-2] for name in re.findall(r"^  (-.+? …)(?:  |$)", "\n".join(lines), re.MULTILINE)]
    assert sorted(flags) == sorted(["--old", *(f"--{setting.flag}" for setting in flags_of(program))])
