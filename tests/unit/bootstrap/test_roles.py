import pytest

from kme.bootstrap.roles import (
    CLIENTS,
    LOGINS,
    IssuingRole,
    Site,
    is_address,
    issuing_roles,
    kme_server_role,
    login_values,
    rest_server_role,
    sae_role,
    service_role,
)
from kme.ids import KmeId, SaeId

SITE = Site(KmeId("kme-1"), "kme-1.example.org", SaeId("sae-1"), "https://vault:8200")


@pytest.mark.parametrize("role", issuing_roles(SITE), ids=lambda role: role.path)
def test_no_role_signs_more_than_it_names(role: IssuingRole) -> None:
    values = role.values()
    assert values["allow_any_name"] is False
    assert values["allow_subdomains"] is False
    assert values["allow_wildcard_certificates"] is False
    assert values["allow_localhost"] is False
    assert values["key_type"] == "ec"
    assert values["allowed_uri_sans"] == list(role.uris)
    assert values["server_flag"] != values["client_flag"]


def test_names_of_roles_are_all_different() -> None:
    paths = [role.path for role in issuing_roles(SITE)]
    assert len(set(paths)) == len(paths)


def test_a_service_is_a_client_with_one_uri_and_no_host() -> None:
    values = service_role("watcher").values()
    assert values["allowed_uri_sans"] == ["service-id:watcher"]
    assert values["allowed_domains"] == []
    assert values["allow_bare_domains"] is False
    assert values["allow_ip_sans"] is False


def test_an_sae_is_named_as_one_and_nothing_else() -> None:
    assert sae_role().values()["allowed_uri_sans"] == ["sae-id:*"]
    assert sae_role().values()["allowed_domains"] == []


def test_a_server_has_its_one_host() -> None:
    assert rest_server_role().values()["allowed_domains"] == ["rest"]
    assert kme_server_role(SITE).values()["allowed_domains"] == ["kme-1.example.org"]


def test_a_host_may_be_an_address() -> None:
    site = Site(KmeId("kme-1"), "192.0.2.7", SaeId("sae-1"), "https://vault:8200")
    values = kme_server_role(site).values()
    assert values["allow_ip_sans"] is True
    assert values["allowed_domains"] == []


@pytest.mark.parametrize(
    ("host", "is_one"), [("192.0.2.7", True), ("2001:db8::1", True), ("kme-1", False)]
)
def test_an_address_is_told_from_a_name(host: str, is_one: bool) -> None:
    assert is_address(host) is is_one


@pytest.mark.parametrize("role", LOGINS)
def test_a_login_gives_its_own_policy_for_ten_minutes(role: str) -> None:
    values = login_values(role)
    assert values["token_policies"] == [role]
    assert values["token_ttl"] == 600
    assert values["token_no_default_policy"] is True
    assert values["allowed_uri_sans"] == [f"service-id:{LOGINS[role]}"]
    assert LOGINS[role] in CLIENTS


def test_neither_the_unsealer_nor_traefik_logs_in() -> None:
    assert not {"unsealer", "traefik", "vault_init"} & set(LOGINS.values())
