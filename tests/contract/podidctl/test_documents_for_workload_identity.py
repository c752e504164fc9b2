"""Printed documents can be applied and run unchanged, whatever text the objects contain."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import yaml

from podidctl.migration.output import change_script, command, credential_script, new_accounts
from podidentity.azure.federation import DIRECT_AUDIENCE as AUDIENCE
from tests.support.migration.objects import ID, account, binding, cron_job, identity, planned, workload
from tests.support.waiting import LIMIT_SECONDS

ISSUER = "https://oidc.example.org/x/"


def test_yaml_has_exactly_the_new_service_accounts_and_commands_change_existing_objects() -> None:
    made = planned(workload(account="web"), cron_job(account="nightly"), accounts=[account("nightly")])
    assert list(yaml.safe_load_all(new_accounts(made))) == [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "name": "web",
                "namespace": "shop",
                "annotations": {"azure.workload.identity/client-id": "client-demo"},
            },
        }
    ]

    template = {"metadata": {"labels": {"azure.workload.identity/use": "true"}}}
    web = {"spec": {"template": {**template, "spec": {"serviceAccountName": "web"}}}}
    job = {"spec": {"template": {**template, "spec": {"serviceAccountName": "nightly"}}}}
    lines = [shlex.split(line) for line in change_script(made).splitlines() if line.startswith("kubectl ")]
    assert [(*words[:-1], json.loads(words[-1])) for words in lines[1:]] == [
        ("kubectl", "patch", kind, "--namespace", "shop", name, "--type=strategic", "--patch", patch)
        for kind, name, patch in (
            ("cronjob.v1.batch", "nightly", {"spec": {"jobTemplate": job}}),
            ("deployment.v1.apps", "web", web),
        )
    ]
    note = "azure.workload.identity/client-id=client-demo"
    assert lines[0] == [
        *("kubectl", "annotate", "serviceaccount", "--namespace", "shop", "nightly", "--overwrite", note)
    ]


def test_a_new_service_account_has_the_image_pull_secrets_of_the_former_one() -> None:
    before = account("default", imagePullSecrets=[{"name": "registry"}], automountServiceAccountToken=False)
    (made, *_) = yaml.safe_load_all(new_accounts(planned(workload(), accounts=[before])))
    assert made["imagePullSecrets"] == [{"name": "registry"}]
    assert made["automountServiceAccountToken"] is False


def test_a_service_principal_has_a_command_of_its_application() -> None:
    principal = identity(type=1, tenantID="t", clientPassword={"name": "n"})
    (credential,) = planned(workload(account="web"), objects=[principal, binding()]).credentials
    *words, document = shlex.split(command(credential, ISSUER, AUDIENCE))
    assert words == ["az", "ad", "app", "federated-credential", "create", "--id", "client-demo", "--parameters"]
    subject = "system:serviceaccount:shop:web"
    assert json.loads(document) == {"name": "shop-web", "issuer": ISSUER, "subject": subject, "audiences": [AUDIENCE]}


def test_an_empty_plan_is_still_a_valid_document_and_script() -> None:
    made = planned()
    assert list(yaml.safe_load_all(new_accounts(made))) == []
    assert "\naz " not in credential_script(made.credentials, [step.line for step in made.by_hand], ISSUER, AUDIENCE)
    assert "\nkubectl " not in change_script(made)


def test_text_in_an_object_cannot_run_a_command(tmp_path: Path) -> None:
    evil = "$(touch pwned);`touch pwned`&touch\tpwned|'\"\ntouch pwned\n"
    objects = [identity(resourceID=f"{ID}demo".replace("/g/", "/g(touch)/")), binding()]
    made = planned(workload(evil, account="web"), workload("lost", label=evil), objects=objects)
    assert made.by_hand
    script = tmp_path / "script.sh"
    script.write_text(credential_script(made.credentials, [step.line for step in made.by_hand], ISSUER, AUDIENCE))
    (tmp_path / "az").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >>called\n')
    (tmp_path / "az").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(script)], cwd=tmp_path, env=path, check=True, timeout=LIMIT_SECONDS)
    script.write_text(change_script(made))
    subprocess.run(["sh", str(script)], cwd=tmp_path, env=path, check=True, timeout=LIMIT_SECONDS)
    assert "g(touch)" in (tmp_path / "called").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {"script.sh", "az", "called"}
    kinds = {account["kind"] for account in yaml.safe_load_all(new_accounts(made)) if account}
    assert kinds == {"ServiceAccount"}
