"""`podidctl migrate from-reference` as users run it: files, standard input, values, and a live cluster."""

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from podidctl.cli import main
from tests.support.mic.preview.run_programs import run
from tests.support.migration.federation_sandbox import Federation

OLD = """\
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: b} # kept
spec:
  AzureIdentity: a
  Selector: s
"""
NEW = OLD.replace("AzureIdentity:", "azureIdentity:").replace("Selector", "selector")
COMMAND = ["migrate", "from-reference"]


def test_yaml_prints_the_rewritten_manifests_and_the_report_separately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(OLD)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yml").write_text(f"{OLD}---\nkind: Other\n")
    (tmp_path / "notes.txt").write_text("{{ not yaml")
    assert main([*COMMAND, "-f", str(tmp_path), "-o", "yaml"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{NEW}---\n{NEW}---\nkind: Other\n"
    assert "spec.AzureIdentity" in output.err
    assert (tmp_path / "a.yaml").read_text() == OLD
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OLD.encode())))
    assert main([*COMMAND, "-f", "-", "-o", "yaml"]) == 0
    assert capsys.readouterr().out == NEW


def test_in_place_changes_only_the_files_that_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, fine = tmp_path / "old.yaml", tmp_path / "fine.yaml"
    old.write_bytes(OLD.replace("\n", "\r\n").encode())
    fine.write_text(NEW)
    before = fine.stat().st_mtime_ns
    assert main([*COMMAND, "-f", str(tmp_path), "-o", "json"]) == 3
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["level"], finding["about"]) == ("look", "AzureIdentityBinding b")
    assert main([*COMMAND, "-f", str(tmp_path), "--in-place"]) == 0
    assert old.read_bytes() == NEW.replace("\n", "\r\n").encode()
    assert fine.stat().st_mtime_ns == before
    assert main([*COMMAND, "-f", str(tmp_path)]) == 0
    assert "No differences were found" in capsys.readouterr().out


def test_a_rewrite_that_drops_data_must_be_reviewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(f"{OLD}  azureIdentity: another\n")
    assert main([*COMMAND, "-f", str(tmp_path), "--in-place"]) == 3
    output = " ".join(capsys.readouterr().out.split())
    assert "review required" in output
    assert "restore manually" in output


def test_values_of_the_go_implementations_chart_are_reviewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "values.yaml").write_text("nmi: {tag: v1.8.17}\n")
    assert main([*COMMAND, "--values", str(tmp_path / "values.yaml"), "-o", "yaml"]) == 3
    findings = yaml.safe_load(capsys.readouterr().out)["findings"]
    assert {finding["about"] for finding in findings} == {"value nmi.tag", "value image.repository"}


async def test_a_cluster_without_the_go_implementations_programs_is_recognised_by_its_objects(
    cloud: Federation,
) -> None:
    answer = await run(cloud.cloud.folder, "podidctl", *COMMAND, "-o", "json", cloudconfig=False)
    assert answer.err == ""
    about = {finding["about"]: finding["level"] for finding in answer.document["findings"]}
    # The sandbox's API server has no DaemonSets.
    assert about == {"daemonsets": "look"}
    assert answer.code == 3
