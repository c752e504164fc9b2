"""The annotations of the settings of both programs, which no type checker reads."""

import pytest

import mic.startup.settings
import nmi.settings
from podidentity.settings import REQUIRED, ProgramSettings, flags_of, settings_of


@pytest.mark.parametrize("program", [nmi.settings.Settings, mic.startup.settings.Settings])
def test_each_flag_has_a_help_and_a_default_in_its_syntax_and_range(program: type[ProgramSettings]) -> None:
    for setting in flags_of(program):
        assert setting.help, setting.flag
        assert setting.read is not None, setting.flag
        if setting.default not in {REQUIRED, None}:
            assert setting.read(setting.spelled(setting.default)) == setting.default, setting.flag
        if setting.range is not None:
            assert setting.range.least <= setting.default <= setting.range.greatest, setting.flag


@pytest.mark.parametrize("program", [nmi.settings.Settings, mic.startup.settings.Settings])
def test_each_setting_has_a_source_of_its_own(program: type[ProgramSettings]) -> None:
    sources = [setting.source for setting in settings_of(program)]
    assert all(sources)
    assert len(set(sources)) == len(sources)
