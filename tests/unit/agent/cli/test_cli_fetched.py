"""Answers of a Workload API that are not what they should be, as ``api fetch`` finds them."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.cli.fetched import fetched_of
from spiffe_core.api.workload_pb2 import X509SVID, X509SVIDResponse
from spiffe_core.runtime.cli.errors import CommandError
from tests.support import pki

REALM = pki.Realm()
OTHER = pki.Realm()
ID = "spiffe://example.org/workload"


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def svid(**changed: object) -> X509SVID:
    issued = REALM.issue("/workload")
    chain = b"".join(one.public_bytes(Encoding.DER) for one in issued.chain)
    usual = {"spiffe_id": ID, "x509_svid": chain, "x509_svid_key": der(issued.private_key), "bundle": REALM.root.der}
    return X509SVID(**{**usual, **changed})


def test_what_is_as_it_should_be_is_taken():
    [found] = fetched_of(X509SVIDResponse(svids=[svid(hint="h")]), pki.NOW)
    assert (str(found.id), found.hint, len(found.chain), found.bundle) == (ID, "h", 1, (REALM.root.der,))


PARSE = f'failed to parse svid entry 0 for spiffe id "{ID}": '
VERIFY = f'"{ID}" SVID failed verification against bundle: '


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (lambda: {"x509_svid": b""}, PARSE + "no certificates found"),
        (lambda: {"x509_svid": b"\0"}, PARSE),
        (lambda: {"x509_svid_key": b""}, PARSE + "failed to parse private key: "),
        (
            lambda: {"x509_svid_key": der(ec.generate_private_key(ec.SECP256R1()))},
            PARSE + "private key is not the certificate's",
        ),
        (lambda: {"bundle": b""}, PARSE + "no certificates in trust bundle"),
        (lambda: {"bundle": b"\x30"}, PARSE + "failed to parse trust bundle: "),
        (lambda: {"bundle": OTHER.root.der}, VERIFY),
        (lambda: {"spiffe_id": "spiffe://example.org/other"}, '"spiffe://example.org/other" SVID failed verification'),
        (lambda: {"spiffe_id": "x"}, 'failed to parse svid entry 0 for spiffe id "x": '),
    ],
    ids=[
        "no chain",
        "no certificate",
        "no key",
        "other key",
        "no bundle",
        "bad bundle",
        "other bundle",
        "other ID",
        "no ID",
    ],
)
def test_what_is_not_is_refused(changed: Callable[[], dict[str, object]], error):
    with pytest.raises(CommandError) as caught:
        fetched_of(X509SVIDResponse(svids=[svid(**changed())]), pki.NOW)
    assert caught.value.message.startswith(error)


@pytest.mark.parametrize("when", [timedelta(days=1, seconds=1), -timedelta(hours=2)], ids=["expired", "not yet"])
def test_an_svid_that_is_not_valid_now_is_refused(when):
    with pytest.raises(CommandError) as caught:
        fetched_of(X509SVIDResponse(svids=[svid()]), pki.NOW + when)
    assert caught.value.message.startswith(VERIFY)


def test_an_answer_without_svids_is_refused():
    with pytest.raises(CommandError) as caught:
        fetched_of(X509SVIDResponse(), pki.NOW)
    assert caught.value.message == "workload response contains no svids"


@pytest.mark.parametrize(
    ("bundle", "error"),
    [
        (b"", 'no certificates in bundle for federated domain "spiffe://a.test"'),
        (b"\0", 'failed to parse bundle for federated domain "spiffe://a.test": '),
    ],
    ids=["empty", "malformed"],
)
def test_a_federated_bundle_that_is_none_is_refused(bundle, error):
    with pytest.raises(CommandError) as caught:
        fetched_of(X509SVIDResponse(svids=[svid()], federated_bundles={"spiffe://a.test": bundle}), pki.NOW)
    assert caught.value.message.startswith(error)
