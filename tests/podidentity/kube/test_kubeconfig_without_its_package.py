"""Without the package that reads kubeconfigs the error names it. tests/images/built runs the programs without it."""

import importlib.util

import pytest

from podidentity.kube.kubeconfig import read_kubeconfig


def test_the_error_names_the_package_to_install_and_why_no_image_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    problem = read_kubeconfig("/some/config")["problem"]
    assert problem.startswith("cannot read the kubeconfig /some/config without the package kubernetes")
    assert "pip install 'aad-pod-identity[kubeconfig]'" in problem
    assert "no image has this package" in problem
