"""The certificate is pinned as a leaf; another one of the same name, or of the same issuer, is not let pass."""

from __future__ import annotations

import dataclasses
import os
import ssl
import stat
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from aioparallel.errors import CapabilityError, ConfigurationError
from aioparallel.identity import ALPN, Identity, client_context, fingerprint_of, server_context, server_name_of
from aioparallel.private import Secret

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.new("c0ffee", NOW)


def shake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a TLS handshake in memory, and return the client's and the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return near, far
    raise AssertionError("the handshake does not end")


def test_pinned_leaf_is_accepted_over_tls_1_3(identity: Identity) -> None:
    near, far = shake(client_context([identity.certificate_pem]), server_context(identity), identity.server_name)
    assert near.version() == "TLSv1.3"
    assert near.selected_alpn_protocol() == far.selected_alpn_protocol() == ALPN == "aioparallel/1"
    der = near.getpeercert(binary_form=True)
    assert der is not None
    assert fingerprint_of(der) == identity.fingerprint


def test_names_and_dates(identity: Identity) -> None:
    assert identity.server_name == server_name_of("c0ffee") == "c0ffee.aioparallel.invalid"
    near, _ = shake(client_context([identity.certificate_pem]), server_context(identity), identity.server_name)
    certificate = near.getpeercert()
    assert certificate is not None
    assert certificate["subjectAltName"] == (("DNS", identity.server_name),)
    assert str(certificate["notAfter"]).startswith("Dec 30 00:00:00 2035")


def test_same_name_with_another_key_is_refused(identity: Identity) -> None:
    evil = Identity.new("c0ffee", NOW)
    assert evil.fingerprint != identity.fingerprint
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client_context([identity.certificate_pem]), server_context(evil), identity.server_name)
    # … unless both are pinned, as while certificates are rotated.
    both = client_context([identity.certificate_pem, evil.certificate_pem])
    shake(both, server_context(evil), identity.server_name)
    shake(both, server_context(identity), identity.server_name)


def test_another_leaf_of_the_same_issuer_is_refused() -> None:
    issuer = trustme.CA()
    ours, other = (
        Identity.load("c0ffee", Secret(leaf.private_key_pem.bytes()), leaf.cert_chain_pems[0].bytes().decode())
        for leaf in (issuer.issue_cert(server_name_of("c0ffee")) for _ in range(2))
    )
    shake(client_context([ours.certificate_pem]), server_context(ours), ours.server_name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client_context([ours.certificate_pem]), server_context(other), ours.server_name)


def test_another_name_is_refused(identity: Identity) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client_context([identity.certificate_pem]), server_context(identity), server_name_of("beef"))


def test_older_tls_is_refused(identity: Identity) -> None:
    old = client_context([identity.certificate_pem])
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(old, server_context(identity), identity.server_name)
    assert client_context([identity.certificate_pem]).minimum_version is ssl.TLSVersion.TLSv1_3


def test_contexts_leak_no_keys_and_give_no_tickets(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    server, client = server_context(identity), client_context([identity.certificate_pem])
    shake(client, server, identity.server_name)
    assert not list(tmp_path.iterdir())
    assert server.num_tickets == 0
    assert (client.verify_mode, client.check_hostname) == (ssl.CERT_REQUIRED, True)
    # No other authority is trusted.
    assert client.cert_store_stats()["x509"] == 1


def test_the_key_is_in_a_file_of_ours_for_a_moment_and_then_in_none(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []
    real = ssl.SSLContext.load_cert_chain

    def watched(context: ssl.SSLContext, name: str) -> None:
        modes.append(stat.S_IMODE(os.stat(name).st_mode))
        real(context, name)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    old = os.umask(0)
    try:
        server_context(identity)
        with pytest.raises(CapabilityError, match="can't be used"):
            server_context(dataclasses.replace(identity, key_pem=Secret(b"no key")))
    finally:
        os.umask(old)
    assert modes == [0o600, 0o600]
    assert not list(tmp_path.iterdir())


def test_identity_shows_no_key_and_comes_back_from_pem(identity: Identity) -> None:
    assert "PRIVATE" not in repr(identity) + str(dataclasses.asdict(identity))
    assert identity.server_name in repr(identity)
    assert Identity.load("c0ffee", identity.key_pem, identity.certificate_pem) == identity


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused_in_words(text: str) -> None:
    with pytest.raises(CapabilityError, match="certificate"):
        client_context([text])


def test_a_capability_without_certificates_is_not_for_tls() -> None:
    with pytest.raises(CapabilityError, match="pins no certificate"):
        client_context([])


def test_missing_trustme_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ConfigurationError, match="pip install trustme"):
        Identity.new("c0ffee", NOW)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, aioparallel.authority, aioparallel.handshake; "
        "print([m for m in ('ssl', 'trustme', 'cryptography', 'asyncio', 'pickle') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert answer.stdout.strip() == "[]"
