"""Credentials: the administrator's token, a client certificate, a service account's token, and invalid ones.

Excluded: valid and impossible token requests (`tests/contract/test_token_requests_against_servers.py`).
"""

import asyncio
import datetime
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from podidentity_sandbox.certificates import Authority
from podidentity_sandbox.kubeapi import KubeApi
from tests.sandbox.kubeapi.client import PODS, Caller, pod
from tests.sandbox.kubeapi.conftest import serving

TOKEN = "/api/v1/namespaces/default/serviceaccounts/default/token"


@pytest.mark.parametrize("token", ["", "wrong", "a.b.c", "é"])
async def test_without_valid_credentials_everything_is_401(api: KubeApi, token: str) -> None:
    caller = Caller(api.server, token, api.authority.client_context())
    for path in ("/api", "/healthz", "/api/v1/pods", "/nosuch"):
        answer = await caller("GET", path)
        assert (answer.status, answer.body["reason"], answer.body["code"]) == (401, "Unauthorized", 401)
    await caller.close()


async def test_a_client_certificate_of_the_servers_authority_is_accepted(api: KubeApi) -> None:
    certificate = api.authority.client("user", ["system:masters"])
    caller = Caller(api.server, "", api.authority.client_context(certificate))
    assert (await caller("GET", "/healthz")).status == 200
    await caller.close()


async def test_a_client_certificate_of_another_authority_is_rejected(api: KubeApi) -> None:
    certificate = Authority().client("user", ["system:masters"])
    caller = Caller(api.server, "", api.authority.client_context(certificate))
    with pytest.raises((aiohttp.ClientError, OSError)):
        await caller("GET", "/healthz")
    await caller.close()


async def test_a_service_account_token_is_valid_until_it_expires() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    async with serving(now=lambda: moment) as (api, administrator):
        token = (await administrator("POST", TOKEN, {"spec": {}})).body["status"]["token"]
        caller = Caller(api.server, token, api.authority.client_context())
        assert (await caller("GET", "/healthz")).status == 200
        moment += datetime.timedelta(hours=2)
        assert (await caller("GET", "/healthz")).status == 401
        await caller.close()


@pytest.mark.parametrize(
    "spec",
    [
        {"audiences": "x"},
        {"audiences": [1]},
        {"expirationSeconds": "600"},
        {"expirationSeconds": 1e300},
        {"boundObjectRef": []},
        {"boundObjectRef": {"kind": 1}},
        [],
    ],
    ids=str,
)
async def test_a_token_request_of_the_wrong_shape_is_refused(call: Caller, spec: Any) -> None:
    assert (await call("POST", TOKEN, {"spec": spec})).status == 400


async def test_the_token_of_an_overdue_pod_is_rejected() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    async with serving(now=lambda: moment) as (api, administrator):
        api.store.create("pods", pod("p", node="n1"), "default")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": "p"}
        token = (await administrator("POST", TOKEN, {"spec": {"boundObjectRef": bound}})).body["status"]["token"]
        caller = Caller(api.server, token, api.authority.client_context())
        await administrator("DELETE", f"{PODS}/p")
        moment += datetime.timedelta(seconds=80)
        assert (await caller("GET", "/healthz")).status == 200
        moment += datetime.timedelta(seconds=20)
        assert (await caller("GET", "/healthz")).status == 401
        await caller.close()


async def test_only_the_owner_can_read_the_kubeconfig(api: KubeApi, tmp_path: Path) -> None:
    path = await asyncio.to_thread(api.write_kubeconfig, tmp_path / "kubeconfig")
    assert path.stat().st_mode & 0o777 == 0o600
    config = json.loads(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == api.server
