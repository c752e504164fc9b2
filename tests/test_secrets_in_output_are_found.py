"""The check at the end of each test finds secrets and nothing else."""

from podidentity_sandbox.directory import Directory
from podidentity_sandbox.tokens import TokenMint
from tests.leaks import Ledger


def test_a_token_a_part_of_it_and_a_secret_are_found(ledger: Ledger) -> None:
    token = TokenMint().mint(audience="a", client_id="c", object_id="o", tenant_id="t")
    secret = Directory().add_principal().secret
    for text in (token, f"it is {token}.", token.rpartition(".")[2], token.rpartition(".")[0], f"x{secret}y"):
        assert ledger.found_in(text), text
    assert not ledger.found_in("eyJhbGciOiJSUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA and an ordinary line")


def test_captured_output_is_searched(ledger: Ledger) -> None:
    secret = Directory().add_principal().secret
    assert ledger.found_in_sections([("Captured log call", "well"), ("Captured stderr call", f"it is {secret}")])
    assert not ledger.found_in_sections([("Captured log call", "well"), ("Captured stderr call", "well")])
