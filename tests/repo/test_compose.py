"""The Compose files: containers are confined, see only their own volumes, start in order."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RUNNING = ("vault", "unsealer", "watcher", "rest", "traefik")
ONE_SHOT = (
    "volumes", "certauth", "vault_init", "certauth_csr", "vault_init_second", "qkd", "notifier",
    "operator",
)  # fmt: skip

# Volume: who may write to it, who may read it. The service `volumes` mounts all of
# them as nobody, who can read none.
ENTITLED: dict[str, tuple[set[str], set[str]]] = {
    "ca-private": ({"certauth", "certauth_csr"}, set()),
    "ca-exchange": ({"certauth", "certauth_csr", "vault_init", "vault_init_second"}, set()),
    "vault-tls": ({"certauth", "certauth_csr"}, {"vault"}),
    "vault-init-tls": ({"certauth", "certauth_csr"}, {"vault_init", "vault_init_second"}),
    "vault-data": ({"vault"}, set()),
    "vault-audit": ({"vault"}, set()),
    "vault-init-state": ({"vault_init", "vault_init_second"}, set()),
    "unsealer-tls": ({"vault_init", "vault_init_second"}, {"unsealer"}),
    "watcher-tls": ({"vault_init", "vault_init_second"}, {"watcher"}),
    "rest-tls": ({"vault_init", "vault_init_second"}, {"rest"}),
    "traefik-tls": ({"vault_init", "vault_init_second", "operator"}, {"traefik"}),
    "operator-tls": ({"vault_init", "vault_init_second"}, {"operator"}),
    "metrics-tls": ({"vault_init", "vault_init_second"}, set()),
    "sae": ({"vault_init", "vault_init_second"}, {"operator"}),
    "offline-shares": ({"vault_init", "vault_init_second"}, set()),
    "issued": ({"operator"}, set()),
    "qkd-work": ({"qkd"}, set()),
    "notices": ({"watcher", "notifier"}, set()),
}


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return document


def _services() -> dict[str, dict[str, Any]]:
    """Return all services; what the second file adds to one of the first is put on top."""
    services: dict[str, dict[str, Any]] = _read("docker-compose.yml")["services"]
    for name, service in _read("docker-compose.init.yml")["services"].items():
        services[name] = {**services.get(name, {}), **service}
    return services


SERVICES = _services()


def test_every_service_is_listed_here() -> None:
    assert set(SERVICES) == {*RUNNING, *ONE_SHOT}


@pytest.mark.parametrize("name", SERVICES)
class TestConfinement:
    def test_it_runs_as_a_user_of_its_own_and_never_as_root(self, name: str) -> None:
        uid, gid = SERVICES[name]["user"].split(":")
        assert uid == gid
        assert uid != "0"

    def test_its_root_file_system_is_read_only(self, name: str) -> None:
        assert SERVICES[name]["read_only"] is True

    def test_it_has_no_capability_and_gains_no_privilege(self, name: str) -> None:
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
        assert not {"cap_add", "privileged", "devices", "pid", "ipc"} & set(SERVICES[name])

    def test_its_processes_memory_and_log_are_limited(self, name: str) -> None:
        service = SERVICES[name]
        assert 0 < service["pids_limit"] <= 256
        assert service["mem_limit"]
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}

    def test_it_mounts_no_docker_socket(self, name: str) -> None:
        assert "docker.sock" not in str(SERVICES[name])

    def test_no_secret_is_passed_by_environment(self, name: str) -> None:
        for variable in SERVICES[name].get("environment", {}):
            assert not any(word in variable for word in ("TOKEN", "SECRET", "PASSWORD", "SHARE_"))

    def test_its_files_from_the_checkout_are_read_only(self, name: str) -> None:
        for volume in SERVICES[name].get("volumes", []):
            if volume.startswith("./"):
                assert volume.endswith(":ro")


def test_users_are_told_apart() -> None:
    users = {name: service["user"] for name, service in SERVICES.items()}
    # One program, run twice.
    assert users.pop("certauth_csr") == users["certauth"]
    assert users.pop("vault_init_second") == users["vault_init"]
    assert len(set(users.values())) == len(users)


def test_only_traefik_is_reachable_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["traefik"]
    networks = _read("docker-compose.yml")["networks"]
    assert {name for name, network in networks.items() if network.get("internal")} == {
        "vault", "front",
    }  # fmt: skip
    assert [
        name for name, service in SERVICES.items() if "edge" in service.get("networks", [])
    ] == ["traefik"]
    assert [n for n, service in SERVICES.items() if "egress" in service.get("networks", [])] == [
        "rest"
    ]


@pytest.mark.parametrize("name", ["volumes", "certauth", "certauth_csr", "qkd", "notifier"])
def test_what_needs_no_network_has_none(name: str) -> None:
    assert SERVICES[name]["network_mode"] == "none"


def test_each_service_sees_only_its_own_volumes() -> None:
    writers: dict[str, set[str]] = {}
    readers: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, _, mode = (*volume.split(":"), "rw")[:3]
            if source.startswith((".", "$")) or name == "volumes":
                continue
            (readers if mode == "ro" else writers).setdefault(source, set()).add(name)
    found = {
        volume: (writers.get(volume, set()), readers.get(volume, set()))
        for volume in _read("docker-compose.yml")["volumes"]
    }
    assert found == ENTITLED


def test_every_volume_is_given_its_owner_first() -> None:
    mounted = {volume.split(":")[0] for volume in SERVICES["volumes"]["volumes"]}
    assert mounted == set(_read("docker-compose.yml")["volumes"])


@pytest.mark.parametrize("name", RUNNING)
def test_what_keeps_running_has_a_health_check_and_comes_back(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", ONE_SHOT)
def test_what_ends_is_not_restarted(name: str) -> None:
    assert SERVICES[name]["restart"] == "no"


def test_the_first_start_goes_step_by_step() -> None:
    chain = ["vault_init_second"]
    while chain[-1] in SERVICES and SERVICES[chain[-1]].get("depends_on"):
        ((before, how),) = SERVICES[chain[-1]]["depends_on"].items()
        expected = "service_started" if before == "vault" else "service_completed_successfully"
        assert how == {"condition": expected}
        chain.append(before)
    assert chain[::-1] == [
        "volumes", "certauth", "vault", "vault_init", "certauth_csr", "vault_init_second",
    ]  # fmt: skip


def test_the_files_keep_to_what_both_compose_programs_take() -> None:
    for name in ("docker-compose.yml", "docker-compose.init.yml"):
        text = (ROOT / name).read_text()
        assert not {"version", "name", "include", "configs", "secrets"} & set(yaml.safe_load(text))
        for word in ("start_interval", "post_start", "pre_stop", "!reset", "!override"):
            assert word not in text
        assert ":-${" not in text, "nested defaults are passed through literally by 1.29.2"


def test_every_setting_of_the_compose_files_is_explained_to_the_operator() -> None:
    example = (ROOT / ".env.example").read_text()
    for name in ("docker-compose.yml", "docker-compose.init.yml"):
        used = set(re.findall(r"\$\{(KME_[A-Z_0-9]+)", (ROOT / name).read_text()))
        missing = {setting for setting in used if f"{setting}=" not in example}
        # The folder of .env itself; scripts/appliance adds it.
        assert missing <= {"KME_SITE_DIR"}
