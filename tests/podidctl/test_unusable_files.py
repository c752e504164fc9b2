"""An unusable path on the command line gives one line that states what to pass instead."""

from pathlib import Path

import pytest

from podidctl.cli import main


@pytest.mark.parametrize(
    "where", ["missing/values.yaml", "kubeconfig/values.yaml", "."], ids=["missing", "file", "folder"]
)
def test_unwritable_chart_values_are_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    code = main(["sandbox", "up", "--kubeconfig", str(kubeconfig), "--chart-values", str(tmp_path / where)])
    output = capsys.readouterr()
    assert (code, output.out, output.err.count("\n")) == (2, "", 1)
    assert "--chart-values" in output.err
    assert str(tmp_path) in output.err
