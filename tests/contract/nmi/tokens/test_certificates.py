"""Unusable and malicious PKCS #12 files: the loop never waits, and the error names the cause.

Excluded: files that do serve (`test_service_principals.py`).
"""

import asyncio
import resource
import sys
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from nmi.tokens import service_principal, signing_program
from nmi.tokens.secrets import CredentialError
from podidentity.azure.errors import MESSAGE_MAX, AzureError
from tests.support.nmi.tokens.sign_in_bench import Bench, certificate_of, pfx_of, rsa_key
from tests.support.waiting import until

CURVE = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("values", "defect"),
    [
        ({"certificate": b"no file at all"}, "not a PKCS #12"),
        (
            {"certificate": pfx_of(rsa_key(), certificate_of(rsa_key()), b"right"), "password": b"wrong"},
            "not a PKCS #12",
        ),
        ({"certificate": pfx_of(rsa_key(), certificate_of(rsa_key()), b"right")}, "not a PKCS #12"),
        (
            {"certificate": pfx_of(rsa_key(), certificate_of(rsa_key()), b"right")[:-1], "password": b"right"},
            "not a PKCS",
        ),
        ({"certificate": pfx_of(None, certificate_of(rsa_key()))}, "private key"),
        ({"certificate": pfx_of(CURVE, certificate_of(CURVE))}, "not RSA"),
        ({"certificate": pfx_of(rsa_key(1024), certificate_of(rsa_key(1024)))}, "1024 bits"),
    ],
    ids=["junk", "wrong-password", "no-password", "cut-short", "no-key", "elliptic", "short-key"],
)
async def test_an_unusable_file_is_named_with_the_defect(bench: Bench, values: dict[str, bytes], defect: str) -> None:
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key()))
    bench.put_secret(**values)
    with pytest.raises(CredentialError) as caught:
        await bench.fetch(bench.identity(principal, type=2))
    assert caught.value.code == "certificate_unfit"
    assert "team-a/sp" in caught.value.message
    assert defect in caught.value.message
    assert bench.aad.calls == []


def made_expensive(pfx: bytes) -> bytes:
    """*pfx* with 2³¹ rounds for its integrity check. They stand at its end, two bytes longer than the 2,048 before."""
    assert pfx[:2] == b"\x30\x82"
    assert pfx.endswith(b"\x02\x02\x08\x00")
    at = next(at for at in range(len(pfx) - 129, len(pfx)) if pfx[at : at + 2] == bytes((0x30, len(pfx) - at - 2)))
    outer = b"\x30\x82" + (len(pfx) - 4 + 2).to_bytes(2, "big")
    return outer + pfx[4:at] + bytes((0x30, pfx[at + 1] + 2)) + pfx[at + 2 : -4] + b"\x02\x04\x7f\xff\xff\xff"


async def test_a_file_that_takes_minutes_to_read_does_not_block_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work factor is a number in the file. Here it is increased until a read takes minutes."""
    monkeypatch.setattr(service_principal, "SIGNER_SECONDS", 1.0)
    good = pfx_of(rsa_key(), certificate_of(rsa_key()), b"pw")
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key()))
    bench.put_secret(certificate=made_expensive(good), password=b"pw")
    with pytest.raises(AzureError) as caught:  # in this process a read would block the loop for minutes
        await bench.fetch(bench.identity(principal, type=2))
    assert caught.value.code == "signer_timeout"
    assert not isinstance(caught.value, CredentialError), "a node without CPU time says nothing about the certificate"
    assert "team-a/sp" in caught.value.message
    assert "CPU limit" in caught.value.message
    assert len(caught.value.message) < MESSAGE_MAX


async def test_the_reader_process_limits_itself() -> None:
    """The program's CPU time and memory are limited independently of its caller, before it reads anything."""
    reading = await asyncio.create_subprocess_exec(
        sys.executable, "-I", service_principal.PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    limits = {resource.RLIMIT_CPU: 3, resource.RLIMIT_AS: 768 * 1024 * 1024, resource.RLIMIT_CORE: 0}
    try:
        await until(
            lambda: all(resource.prlimit(reading.pid, limit) == (most, most) for limit, most in limits.items()),
            "the limits of the process",
        )
    finally:
        reading.kill()
        await reading.wait()


async def test_a_certificate_unknown_to_azure_is_refused_by_azure(bench: Bench) -> None:
    principal = bench.directory.add_principal(certificate=certificate_of(rsa_key(), "registered"))
    bench.put_secret(certificate=pfx_of(rsa_key(), certificate_of(rsa_key(), "another")))
    with pytest.raises(AzureError) as caught:
        await bench.fetch(bench.identity(principal, type=2))
    assert caught.value.code == "AADSTS700027"
    assert "team-a/sp" in caught.value.message
    assert bench.secret_reads == 2


def test_the_largest_key_that_azure_creates_signs_within_the_time_limit() -> None:
    registered = certificate_of(rsa_key(4096))
    began = time.process_time()
    (made,) = signing_program.signed(
        pfx_of(rsa_key(4096), registered, b"pw"), b"pw", "c", ["https://a"], adfs=False, now=0.0
    )
    assert made.count(".") == 2
    assert time.process_time() - began < signing_program.CPU_SECONDS
