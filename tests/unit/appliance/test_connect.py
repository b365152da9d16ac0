import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bundles import NOW, Kme, lasting, pem
from kme.appliance.connect import (
    MAX_BUNDLE_BYTES,
    Bundle,
    check_against_known,
    check_bundle,
    read_bundle,
    same_fingerprint,
    shown_subject,
)
from kme.errors import InputError
from kme.ids import KmeId
from kme.pki.authority import Authority, Leaf, TlsRole

A, B, C = (Kme.make(name) for name in ("kme-a", "kme-b", "kme-c"))
BUNDLE = B.bundle()
LOCAL, PEERS = KmeId("kme-a"), (KmeId("kme-b"), KmeId("kme-c"))


def text_with(**changes: Any) -> bytes:
    return json.dumps({**json.loads(BUNDLE.to_json()), **changes}).encode()


class TestTheFile:
    def test_it_is_written_and_read(self) -> None:
        assert read_bundle(BUNDLE.to_json().encode()) == BUNDLE

    def test_nothing_secret_is_in_it(self) -> None:
        text = BUNDLE.to_json()
        assert "PRIVATE" not in text
        assert text.count("BEGIN CERTIFICATE") == 2

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "no bundle"),
            (b"\xff\xfe", "no bundle"),
            (b"[" * 50_000, "no bundle"),
            (b"[]", "no bundle of the kind"),
            (b"{}", "no bundle of the kind"),
            (text_with(format="kme connect 2"), "of one version"),
            (text_with(more=1), "just these members"),
            (text_with(site=7), "just these members"),
            (text_with(kme="a b"), "is not a KME id"),
            (text_with(site=""), "site is no name"),
            (text_with(site="x\x1b[2J"), "site is no name"),
            (text_with(site="x" * 81), "site is no name"),
            (text_with(ca="garbage"), "ca: no certificate"),
            (text_with(ca=BUNDLE.ca + BUNDLE.root), "one certificate is expected"),
            (text_with(root=""), "root: no certificate"),
            (b" " * (MAX_BUNDLE_BYTES + 1), "at most"),
        ],
    )
    def test_what_is_no_bundle_is_refused(self, data: bytes, says: str) -> None:
        with pytest.raises(InputError, match=says):
            read_bundle(data)

    @pytest.mark.parametrize(
        "url",
        [
            "http://kme-b:1",
            "https://kme-b",
            "https://kme-b:0",
            "https://kme-b:99999",
            "https://:9443",
            "https://kme-b:9443/",
            "https://kme-b:9443?x",
            "https://me@kme-b:9443",
            "https://kme-b:9443\n",
            "https://kme b:9443",
            "https://kmé:9443",
            "https://" + "x" * 300 + ":1",
            "",
        ],
    )
    @pytest.mark.parametrize("name", ["peer_url", "sae_url"])
    def test_an_address_is_host_and_port(self, name: str, url: str) -> None:
        with pytest.raises(InputError, match=name):
            read_bundle(text_with(**{name: url}))

    def test_what_stands_around_certificates_is_dropped(self) -> None:
        read = read_bundle(text_with(ca=f"subject=CN=friend\n{BUNDLE.ca}trailing"))
        assert read == BUNDLE


class TestTheFingerprint:
    def test_it_is_sixteen_groups_of_four_digits(self) -> None:
        groups = BUNDLE.fingerprint().split(" ")
        assert [len(group) for group in groups] == [4] * 16
        assert same_fingerprint(
            BUNDLE.fingerprint().upper().replace(" ", ":"), BUNDLE.fingerprint()
        )
        assert same_fingerprint("".join(groups), BUNDLE.fingerprint())

    def test_it_does_not_depend_on_the_layout(self) -> None:
        members = json.loads(BUNDLE.to_json())
        other = json.dumps(dict(reversed(members.items()))).encode()
        assert read_bundle(other).fingerprint() == BUNDLE.fingerprint()

    @pytest.mark.parametrize(
        "changed",
        [
            replace(BUNDLE, kme=KmeId("kme-c")),
            replace(BUNDLE, site="x"),
            replace(BUNDLE, peer_url="https://kme-b.example:9444"),
            replace(BUNDLE, sae_url="https://kme-b.example:8444"),
            replace(BUNDLE, ca=pem(C.ca)),
            replace(BUNDLE, root=pem(C.root)),
        ],
    )
    def test_everything_is_in_it(self, changed: Bundle) -> None:
        assert not same_fingerprint(changed.fingerprint(), BUNDLE.fingerprint())


class TestWhatIsBelieved:
    def test_a_peers_bundle_is(self) -> None:
        check_bundle(BUNDLE, LOCAL, PEERS, NOW)

    def test_our_own_is_not(self) -> None:
        with pytest.raises(InputError, match="of KME kme-a itself"):
            check_bundle(A.bundle(), LOCAL, PEERS, NOW)

    def test_one_of_a_kme_without_a_link_is_not(self) -> None:
        with pytest.raises(InputError, match=r"KME_LINKS in \.env"):
            check_bundle(Kme.make("kme-d").bundle(), LOCAL, PEERS, NOW)

    @pytest.mark.parametrize(
        ("moment", "says"),
        [(NOW + timedelta(days=366), "ca ended on"), (NOW - timedelta(days=2), "ca begins on")],
    )
    def test_an_authority_out_of_date_is_not(self, moment: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            check_bundle(BUNDLE, LOCAL, PEERS, moment)

    def test_one_under_another_root_is_not(self) -> None:
        with pytest.raises(InputError, match="does not hang under its root"):
            check_bundle(B.bundle(root=pem(C.root)), LOCAL, PEERS, NOW)

    def test_a_leaf_is_no_authority(self) -> None:
        leaf = Authority(B.ca.issue(Leaf("kme-b", TlsRole.CLIENT, ("kme-id:kme-b",)), lasting()))
        with pytest.raises(InputError, match="ca is no authority"):
            check_bundle(B.bundle(ca=pem(leaf)), LOCAL, PEERS, NOW)

    def test_a_root_in_the_place_of_the_authority_is_not(self) -> None:
        with pytest.raises(InputError, match="could make further authorities"):
            check_bundle(B.bundle(ca=pem(B.root)), LOCAL, PEERS, NOW)


class TestWhatIsKnownAlready:
    def test_the_same_bundle_again_is_fine(self) -> None:
        check_against_known(BUNDLE, pem(A.ca), [BUNDLE.to_site(1.0)], replaces=False)

    def test_new_addresses_under_the_same_authority_are_fine(self) -> None:
        moved = B.bundle(peer_url="https://elsewhere:1")
        check_against_known(moved, pem(A.ca), [BUNDLE.to_site(1.0)], replaces=False)

    def test_another_authority_is_believed_only_if_that_was_said(self) -> None:
        anew = Kme.make("kme-b").bundle()
        with pytest.raises(InputError, match="REPLACE=yes"):
            check_against_known(anew, pem(A.ca), [BUNDLE.to_site(1.0)], replaces=False)
        check_against_known(anew, pem(A.ca), [BUNDLE.to_site(1.0)], replaces=True)

    @pytest.mark.parametrize("replaces", [False, True])
    def test_one_authority_for_two_kmes_is_refused(self, replaces: bool) -> None:
        sites = [C.bundle().to_site(1.0)]
        stolen = B.bundle(ca=pem(C.ca), root=pem(C.root))
        with pytest.raises(InputError, match="that of KME kme-c already"):
            check_against_known(stolen, pem(A.ca), sites, replaces=replaces)
        ours = B.bundle(ca=pem(A.ca), root=pem(A.root))
        with pytest.raises(InputError, match="this KME's own"):
            check_against_known(ours, pem(A.ca), [], replaces=replaces)


def test_what_is_kept_says_what_was_compared() -> None:
    site = BUNDLE.to_site(7.5)
    assert (site.kme, site.ca, site.since_s) == (BUNDLE.kme, BUNDLE.ca, 7.5)
    assert site.fingerprint == BUNDLE.fingerprint()


def test_a_subject_is_shown_without_anything_that_a_terminal_obeys() -> None:
    evil = Authority.root("x\x1b[2Jy", lasting())
    assert shown_subject(evil.credential.certificate).isprintable()
