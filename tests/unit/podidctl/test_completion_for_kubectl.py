"""What `kubectl podidentity` completes: lines of a word, a tab and a description, then the directive for the shell."""

import pytest

from podidctl import launcher
from podidctl.commands import completion
from podidctl.commands.connection import ClusterSettings

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variables by which Typer completes."""
    for name in ("_PODIDCTL_COMPLETE", "_TYPER_COMPLETE_FISH_ACTION", "_TYPER_COMPLETE_ARGS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["doc"], "doctor\tCheck the whole installation and show each...\n:4\n"),
        (["access", "n"], "node\nnamespace\n:4\n"),
        (["doctor", "-o", ""], "table\njson\nyaml\n:4\n"),
        (["doctor", "--kubeconfig", ""], ":0\n"),
        (["access", "n' $(x)\n"], ":0\n"),
    ],
    ids=["command", "argument", "value", "file", "quotes"],
)
def test_the_last_word_is_completed(words: list[str], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.complete_for_kubectl(words) == 0
    assert capsys.readouterr() == (printed, "")


def test_the_words_before_it_select_the_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def list_keys(settings: ClusterSettings, path: str, _: float) -> list[tuple[str, str]]:
        assert (settings.context, path) == ("the other one", "/api/v1/namespaces/default/pods")
        return [("default", "web"), ("default", "db")]

    monkeypatch.setattr(completion, "_list_keys", list_keys)
    words = ["explain", "pod", "--context", "the other one", "-n", "default", ""]
    assert launcher.complete_for_kubectl(words) == 0
    assert capsys.readouterr().out == "db\nweb\n:4\n"
