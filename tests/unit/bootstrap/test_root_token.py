"""How a token is decoded, and what a session does on its way in and out, seen by a small Vault."""

import base64
from typing import Any

import pytest
import requests
from hvac.exceptions import Forbidden, InvalidRequest

from kme.bootstrap.root_token import decode_token, root_session
from kme.errors import InputError, IntegrityError, StoreUnavailableError
from kme.secret import Secret

SHARES = [Secret(bytes([n]) * 33) for n in range(1, 4)]
OTP = "o" * 28


def encode(token: str) -> str:
    mixed = bytes(one ^ other for one, other in zip(token.encode(), OTP.encode(), strict=True))
    return base64.b64encode(mixed).decode().rstrip("=")


class SmallVault:
    """Which tokens are alive, and how a root token is made."""

    def __init__(self, required: int = 3) -> None:
        self.alive = {"leftover": ["root"], "rest-1": ["rest"]}
        self.required = required
        self.is_cancelled = False
        self.is_away = False
        self.takes_revoked = False
        self._n = 0
        self.n_submitted = 0

    def cancel_root_generation(self) -> None:
        self.is_cancelled, self.n_submitted = True, 0

    def start_root_token_generation(self) -> dict[str, Any]:
        assert self.is_cancelled
        return {"nonce": "n", "otp": OTP, "required": self.required}

    def generate_root(self, key: str, nonce: str) -> dict[str, Any]:
        if key not in {share.to_base64() for share in SHARES}:
            raise InvalidRequest("no such share")
        self.n_submitted += 1
        if self.n_submitted < self.required:
            return {"complete": False}
        self._n += 1
        self.alive[f"own{self._n}"] = ["root"]
        return {"complete": True, "encoded_root_token": encode(f"hvs.own{self._n}".ljust(28, "."))}


class Tokens:
    def __init__(self, vault: SmallVault, client: "Client") -> None:
        self._vault, self._client = vault, client

    @property
    def _own(self) -> str:
        assert self._client.token is not None
        return self._client.token.removeprefix("hvs.").rstrip(".")

    def lookup_self(self) -> dict[str, Any]:
        if self._own not in self._vault.alive and not self._vault.takes_revoked:
            raise Forbidden("bad token")
        return {"data": {"accessor": self._own}}

    def lookup_accessor(self, accessor: str) -> dict[str, Any]:
        return {"data": {"policies": self._vault.alive[accessor]}}

    def revoke_accessor(self, accessor: str) -> None:
        del self._vault.alive[accessor]

    def revoke_self(self) -> None:
        if self._vault.is_away:
            raise requests.exceptions.ConnectionError("gone")
        del self._vault.alive[self._own]


class Client:
    """Looks like hvac's client, as far as a root session goes."""

    def __init__(self, vault: SmallVault) -> None:
        self.token: str | None = None
        self.sys = vault
        self.auth = type("Auth", (), {"token": Tokens(vault, self)})()
        self._vault = vault

    def list(self, path: str) -> dict[str, Any]:
        assert path == "auth/token/accessors"
        return {"data": {"keys": [*self._vault.alive]}}


def test_a_token_is_decoded_with_its_pad() -> None:
    token = "hvs.abcdefghijklmnopqrstuvwx"
    assert decode_token(encode(token), OTP) == token


class TestASession:
    def test_ends_every_root_token_and_no_other(self) -> None:
        vault = SmallVault()
        client = Client(vault)
        with root_session(client, SHARES):
            assert client.token is not None
            assert "leftover" not in vault.alive
        assert vault.alive == {"rest-1": ["rest"]}
        assert client.token is None

    def test_that_fails_ends_its_token_too(self) -> None:
        vault = SmallVault()
        client = Client(vault)
        with pytest.raises(InputError, match="mine"), root_session(client, SHARES):
            raise InputError("mine")
        assert vault.alive == {"rest-1": ["rest"]}
        assert client.token is None

    def test_says_its_own_failure_if_vault_went_away_as_well(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        vault = SmallVault()
        client = Client(vault)

        def fail() -> None:
            vault.is_away = True
            raise InputError("mine")

        with pytest.raises(InputError, match="mine"), root_session(client, SHARES):
            fail()
        assert "root_token_not_revoked" in caplog.text
        assert client.token is None

    def test_says_if_the_end_could_not_be_made_sure(self) -> None:
        vault = SmallVault()
        client = Client(vault)
        with pytest.raises(StoreUnavailableError), root_session(client, SHARES):
            vault.is_away = True

    def test_is_an_alarm_if_a_revoked_token_is_still_taken(self) -> None:
        vault = SmallVault()
        vault.takes_revoked = True
        with (
            pytest.raises(IntegrityError, match="still takes"),
            root_session(Client(vault), SHARES),
        ):
            pass

    def test_is_an_alarm_if_somebody_made_another_root_token(self) -> None:
        vault = SmallVault()
        with (
            pytest.raises(IntegrityError, match="another root token"),
            root_session(Client(vault), SHARES),
        ):
            vault.alive["stranger"] = ["root"]

    def test_needs_the_shares_of_this_vault(self) -> None:
        vault = SmallVault()
        with (
            pytest.raises(InputError, match="not those of this Vault"),
            root_session(Client(vault), [Secret(bytes(33))]),
        ):
            pytest.fail("no session")
        assert vault.n_submitted == 0

    def test_needs_enough_shares(self) -> None:
        with (
            pytest.raises(InputError, match="2 unseal shares here, this Vault needs 3"),
            root_session(Client(SmallVault()), SHARES[:2]),
        ):
            pytest.fail("no session")
