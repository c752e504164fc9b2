"""Validity of the assertion itself: time, signature, algorithm and claims."""

import base64
import json
import time
from typing import Any

import pytest

from podidentity_sandbox.tokens import read_claims
from tests.nmi.tokens.sign_in_bench import rsa_key
from tests.sandbox.azure.federated_credentials.federation import Federation, signed_by
from tests.sandbox.azure.test_aad_client_proofs import encoded


@pytest.mark.parametrize(
    ("begins", "ends", "good"),
    [(-600, -301, False), (-600, -299, True), (301, 900, False), (300, 900, True)],
    ids=["over", "just-over", "early", "a-little-early"],
)
async def test_an_assertion_is_valid_within_its_time_and_five_minutes_of_skew(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, begins: int, ends: int, good: bool
) -> None:
    federation.trust()
    now = time.time()
    monkeypatch.setattr(federation.azure.aad, "_clock", lambda: now)
    claims = read_claims(await federation.token()) | {"nbf": now + begins, "exp": now + ends}
    signer = await federation.kube._tokens.signer()
    if good:
        assert (await federation.ask(signer.sign(claims)))[0] == 200
        return
    status, error, number, sentence = await federation.refusal(signer.sign(claims))
    assert (status, error, number) == (401, "invalid_client", 700024)
    assert sentence.startswith("Client assertion is not within its valid time range. Current time: 20")


async def test_a_foreign_or_altered_signature_is_rejected(federation: Federation) -> None:
    federation.trust()
    good = await federation.token()
    head, _, signature = good.split(".")
    claims = read_claims(good)
    altered = encoded(json.dumps({**claims, "jti": "2"}).encode())
    key_id = json.loads(base64.urlsafe_b64decode(head + "=="))["kid"]
    assert (await federation.refusal(f"{head}.{altered}.{signature}"))[2] == 50013
    assert (await federation.refusal(signed_by(rsa_key(), claims, kid=key_id)))[2] == 50013
    status, error, number, sentence = await federation.refusal(signed_by(rsa_key(), claims, kid="stranger"))
    assert (status, error, number) == (401, "invalid_client", 7000272)
    assert "stranger" in sentence
    assert federation.kube.server in sentence
    assert (await federation.ask(good))[0] == 200


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"kid": None, "alg": 5}], ids=["none", "hmac", "number"]
)
async def test_only_rs256_is_accepted(federation: Federation, header: dict[str, Any]) -> None:
    federation.trust()
    claims = read_claims(await federation.token())
    assert (await federation.refusal(signed_by(rsa_key(), claims, **{"kid": "k", **header})))[:3] == (
        401,
        "invalid_client",
        50027,
    )


@pytest.mark.parametrize("missing", ["sub", "aud", "exp"])
async def test_an_assertion_without_a_required_claim_is_rejected(federation: Federation, missing: str) -> None:
    federation.trust()
    claims = read_claims(await federation.token())
    del claims[missing]
    assert (await federation.refusal(signed_by(rsa_key(), claims, kid="k")))[2] == 50027


async def test_another_assertion_type_is_rejected(federation: Federation) -> None:
    federation.trust()
    assert (await federation.refusal(await federation.token(), client_assertion_type="urn:another"))[2] == 50027
