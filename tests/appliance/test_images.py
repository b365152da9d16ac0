"""The images as built: small, without secrets or build tools, and good to run without any right.

They are those that `make images` or `scripts/build-images` has left.
"""

import io
import os
import re
import tarfile
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import ContainerError
from docker.models.volumes import Volume

VERSION = os.environ.get("KME_VERSION", "dev")
SERVICES = ("certauth", "vault_init", "unsealer", "notifier", "watcher", "rest", "operator", "qkd")
MB = 1_000_000

HARDENED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "network_mode": "none",
    "remove": True,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def volume(engine: docker.DockerClient) -> Iterator[Volume]:
    made = engine.volumes.create(f"kme-test-{uuid.uuid4().hex[:12]}")
    yield made
    made.remove()


def _image(service: str) -> str:
    return f"kme/{service}:{VERSION}"


def _shell(engine: docker.DockerClient, service: str, script: str, **more: object) -> str:
    output: bytes = engine.containers.run(
        _image(service), ["-c", script], entrypoint="sh", **(HARDENED | more)
    )
    return output.decode()


def _files(engine: docker.DockerClient, service: str) -> list[tarfile.TarInfo]:
    container = engine.containers.create(_image(service))
    try:
        data = io.BytesIO(b"".join(container.export()))
    finally:
        container.remove()
    with tarfile.open(fileobj=data) as archive:
        return archive.getmembers()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_small(engine: docker.DockerClient, service: str) -> None:
    limit = 850 if service == "qkd" else 350
    assert engine.images.get(_image(service)).attrs["Size"] <= limit * MB


def test_images_of_services_share_all_layers_but_their_entry(engine: docker.DockerClient) -> None:
    layers = [
        engine.images.get(_image(service)).attrs["RootFS"]["Layers"]
        for service in SERVICES
        if service != "qkd"
    ]
    shared = set.intersection(*map(set, layers))
    assert len(shared) >= 2  # base and libraries: all but a few MB
    assert all(len(own) - len(shared) <= 8 for own in layers)


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_tests_documents_history_or_secrets(
    engine: docker.DockerClient, service: str
) -> None:
    # Debian's own copy of pip, in a base that has python3-venv
    own = "usr/share/python-wheels/"
    paths = [one.name for one in _files(engine, service) if not one.name.startswith(own)]
    unwanted = re.compile(
        r"(^|/)(\.git|\.env|pip|hatchling|wheels|requirements)(/|$)"
        r"|\.whl$|\.p12$|-key\.pem$|^(tests|docs|source|dist|build)(/|$)"
    )
    assert [path for path in paths if unwanted.search(path)] == []
    ours = [path for path in paths if path.startswith(("app/", "opt/"))]
    pem = [path for path in ours if path.endswith(".pem") and not path.endswith("cacert.pem")]
    assert pem == []


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_nothing_secret_about_how_it_was_made(
    engine: docker.DockerClient, service: str
) -> None:
    image = engine.images.get(_image(service))
    told = " ".join(image.attrs["Config"]["Env"])
    told += " ".join(step["CreatedBy"] for step in image.history())
    assert not re.search(r"(?i)passw|secret|token|private key", told)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_nobody_special_and_finds_its_code(
    engine: docker.DockerClient, service: str
) -> None:
    script = 'id -u; id -g; id -G; python -c "import kme; print(kme.__file__)"; touch /app/x || :'
    uid, gid, groups, place, *refused = _shell(engine, service, script).splitlines()
    assert uid == gid == groups != "0"
    assert place.startswith("/opt/kme/")
    assert refused == []


@pytest.mark.parametrize("service", SERVICES)
def test_an_entry_is_no_place_to_import_from(engine: docker.DockerClient, service: str) -> None:
    script = 'cd /app && python -c "import operator, sys; print(operator.__file__, *sys.path)"'
    assert "/app" not in _shell(engine, service, script)


@pytest.mark.parametrize("service", [name for name in SERVICES if name not in {"rest", "operator"}])
def test_a_service_without_settings_says_in_one_line_what_is_missing(
    engine: docker.DockerClient, service: str
) -> None:
    command = ["certs"] if service == "certauth" else []
    how: dict[str, Any] = {"stderr": True, "tmpfs": {"/tmp": ""}, **HARDENED}
    with pytest.raises(ContainerError) as refused:
        engine.containers.run(_image(service), command, **how)
    said = (refused.value.stderr or b"").decode()
    assert "Traceback" not in said
    assert said.count("\n") <= 2
    assert said.strip()


def test_kernels_of_the_simulated_link_are_not_compiled_again(engine: docker.DockerClient) -> None:
    script = (
        "cp -R --preserve=timestamps /opt/kernels /tmp/kernels && cd /tmp/kernels"
        " && find . -name '*.nbc' | sort > /tmp/before && python -m qkd_sim warm"
        " && find . -name '*.nbc' | sort | diff /tmp/before - && find . -newer /tmp/before -type f"
    )
    tmpfs = {"/tmp": "mode=0700,uid=10005,gid=10005,size=64m"}
    assert _shell(engine, "qkd", script, tmpfs=tmpfs) == ""


class TestVolumes:
    PLACES = (
        ("ca-private", "10001:10001 700"), ("ca-exchange", "10001:10100 2770"),
        ("vault-tls", "10001:10002 2750"), ("vault-data", "10002:10002 700"),
        ("traefik-tls", "10003:10009 2770"), ("rest-tls", "10003:10008 2750"),
        ("offline-shares", "10003:10003 700"), ("notices", "10007:10006 2750"),
    )  # fmt: skip

    @pytest.mark.parametrize(("place", "expected"), PLACES)
    def test_a_new_volume_takes_owner_and_mode_of_an_empty_folder_though_nobody_mounts_it(
        self, engine: docker.DockerClient, volume: Volume, place: str, expected: str
    ) -> None:
        mounts = {volume.name: {"bind": f"/v/{place}", "mode": "rw"}}
        engine.containers.run(_image("volumes"), volumes=mounts, **HARDENED)
        seen = self._see(engine, volume, "stat -c '%u:%g %a' /elsewhere")
        assert seen == f"{expected}\n"

    def test_what_a_writer_leaves_is_for_the_readers_group_and_nobody_else(
        self, engine: docker.DockerClient, volume: Volume
    ) -> None:
        mounts = {volume.name: {"bind": "/v/vault-tls", "mode": "rw"}}
        engine.containers.run(_image("volumes"), volumes=mounts, **HARDENED)
        write = "umask 027 && echo text > /elsewhere/key && stat -c '%u:%g %a' /elsewhere/key"
        assert self._see(engine, volume, write, user="10001:10001") == "10001:10002 640\n"
        read = "cat /elsewhere/key; echo more 2>/dev/null >> /elsewhere/key || echo refused"
        assert self._see(engine, volume, read, user="10002:10002") == "text\nrefused\n"
        stranger = "cat /elsewhere/key 2>/dev/null || echo refused"
        assert self._see(engine, volume, stranger, user="10003:10003") == "refused\n"

    def test_mounting_again_changes_nothing(
        self, engine: docker.DockerClient, volume: Volume
    ) -> None:
        for place in ("vault-tls", "vault-tls", "rest-tls"):
            mounts = {volume.name: {"bind": f"/v/{place}", "mode": "rw"}}
            engine.containers.run(_image("volumes"), volumes=mounts, **HARDENED)
            if place == "vault-tls":
                self._see(engine, volume, "touch /elsewhere/file", user="10001:10001")
        seen = self._see(engine, volume, "stat -c '%u:%g %a' /elsewhere", user="10001:10001")
        assert seen == "10001:10002 2750\n"

    def _see(
        self,
        engine: docker.DockerClient,
        volume: Volume,
        script: str,
        user: str = "65534:65534",
    ) -> str:
        mounts = {volume.name: {"bind": "/elsewhere", "mode": "rw"}}
        return _shell(engine, "rest", script, volumes=mounts, user=user)


@pytest.mark.parametrize(
    ("variable", "default", "program", "user"),
    [
        ("KME_VAULT_IMAGE", "kme-offline/vault:1.21.2", ["vault", "version"], 10002),
        ("KME_TRAEFIK_IMAGE", "kme-offline/traefik:v3.7.15", ["traefik", "version"], 10009),
    ],
)
def test_vault_and_traefik_run_as_compose_runs_them(
    engine: docker.DockerClient, variable: str, default: str, program: list[str], user: int
) -> None:
    image = os.environ.get(variable, default)
    said = engine.containers.run(
        image, program[1:], entrypoint=program[:1], user=f"{user}:{user}", **HARDENED
    ).decode()
    assert image.rpartition(":")[2].removeprefix("v") in said
