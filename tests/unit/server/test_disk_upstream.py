"""UpstreamAuthority "disk": CA files that sign our CA certificates, read anew each time."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from hsm_ca.policy import CaPolicy, CaSubject
from hsm_ca.upstream import check_minted
from hsm_ca.x509_authority import certificate_request, x509_authority_id
from server.upstream_authorities.disk import DiskUpstream, DiskUpstreamConfig
from spiffe_core.errors import InvalidConfig, UpstreamUnavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.block import Block
from tests.support.authorities import TD, Group, authority_key
from tests.support.certificates import NOW, Shape, ca, leaf, rsa_key

DAY = timedelta(days=1)
LONG = (NOW - DAY, NOW + 100 * DAY)
ROOT = ca(subject="root", shape=Shape(validity=LONG))
MIDDLE = ca(ROOT, Shape(validity=LONG), subject="middle")
KEY = authority_key()
ID_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
SAME_NAME = CaSubject(country=(), organization=(), common_name="CA of example.org")


def pem(*certified):
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in certified)


def key_pem(certified, form=PrivateFormat.PKCS8):
    return certified.private_key.private_bytes(Encoding.PEM, form, NoEncryption())


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


class Files:
    def __init__(self, folder):
        self.cert = folder / "ca.crt"
        self.key = folder / "ca.key"
        self.bundle = folder / "bundle.crt"

    def write(self, *chain, key=None, roots=()):
        self.cert.write_bytes(pem(*chain))
        self.key.write_bytes(key or key_pem(chain[0]))
        if roots:
            self.bundle.write_bytes(pem(*roots))

    def open(self):
        bundle = self.bundle if self.bundle.exists() else None
        return DiskUpstream(
            DiskUpstreamConfig(cert_file_path=self.cert, key_file_path=self.key, bundle_file_path=bundle), TD
        )


def mint(upstream, ttl=DAY, trust_domain=TD, now=NOW):
    return upstream.mint_x509_ca(certificate_request(KEY, trust_domain, CaSubject()), ttl, now)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["pkcs8", "traditional"])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_self_signed_ca_signs_ours_which_serves(files, form, kind):
    root = ROOT if kind == "ec" else ca(subject="root", shape=Shape(key=rsa_key(2048), validity=LONG))
    files.write(root, key=key_pem(root, form))
    minted = mint(files.open())
    assert minted.roots == (root.der,)
    assert len(minted.chain) == 1
    assert check_minted(minted, KEY, TD, NOW).upstream_authority_id == x509_authority_id(root.private_key.public_key())


def test_what_it_signs_is_a_ca_of_our_trust_domain_with_what_the_request_asked_for(files):
    files.write(ROOT)
    certificate = x509.load_der_x509_certificate(mint(files.open()).chain[0])
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length, constraints.critical) == (True, None, True)
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert usage.critical
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://example.org"]
    assert certificate.subject == CaSubject().name()
    assert certificate.not_valid_before_utc == NOW - timedelta(seconds=10)
    assert certificate.not_valid_after_utc == NOW + DAY


def test_it_signs_for_an_hour_if_nothing_is_asked_for_and_never_past_its_own_end(files):
    files.write(ca(subject="root", shape=Shape(validity=(NOW - DAY, NOW + 2 * DAY))))
    upstream = files.open()
    ends = [
        x509.load_der_x509_certificate(mint(upstream, ttl).chain[0]).not_valid_after_utc
        for ttl in (timedelta(), 30 * DAY)
    ]
    assert ends == [NOW + timedelta(hours=1), NOW + 2 * DAY]


def test_an_intermediate_is_sent_along_and_the_bundle_is_published(files):
    middle = ca(ROOT, Shape(validity=LONG), subject="middle")
    other = ca(subject="other", shape=Shape(validity=LONG))
    files.write(middle, roots=[ROOT, other])
    minted = mint(files.open())
    assert minted.chain[1:] == (middle.der,)
    assert minted.roots == (ROOT.der, other.der)
    assert check_minted(minted, KEY, TD, NOW)


def test_a_root_that_bears_our_own_name_signs_ours_all_the_same(files):
    group = Group(CaPolicy(trust_domain=TD))
    shape = Shape(validity=(group.now - DAY, group.now + 100 * DAY))
    root = ca(shape=shape)
    files.write(root)
    group.policy = CaPolicy(trust_domain=TD, ca_subject=SAME_NAME)
    group.upstream = files.open()
    server = group.started()
    assert server.x509.certificate.subject == root.certificate.subject
    group.sign(server)


def test_files_that_are_replaced_count_from_the_next_certificate_on(files):
    files.write(ROOT)
    upstream = files.open()
    mint(upstream)
    new = ca(subject="new root", shape=Shape(validity=LONG))
    files.write(new)
    assert mint(upstream).roots == (new.der,)


def test_files_that_become_unusable_leave_the_last_good_ones(files):
    files.write(ROOT)
    upstream = files.open()
    files.key.write_text("half a file")
    assert mint(upstream).roots == (ROOT.der,)
    files.cert.unlink()
    assert mint(upstream).roots == (ROOT.der,)


@pytest.mark.parametrize("where", ["cert", "bundle"])
def test_a_certificate_with_a_key_of_an_unknown_kind_leaves_the_last_good_ones(files, where):
    files.write(MIDDLE, roots=[ROOT])
    upstream = files.open()
    unknown = MIDDLE.der.replace(ID_EC_PUBLIC_KEY, ID_EC_PUBLIC_KEY[:-1] + b"\x09")
    assert unknown != MIDDLE.der
    getattr(files, where).write_bytes(x509.load_der_x509_certificate(unknown).public_bytes(Encoding.PEM))
    assert mint(upstream).roots == (ROOT.der,)
    with pytest.raises(InvalidConfig, match=rf"unable to load upstream CA {where}: .*: Unknown key type"):
        files.open()


def test_an_upstream_that_has_expired_says_so_and_which_file_it_is(files):
    files.write(ROOT)
    with pytest.raises(UpstreamUnavailable, match=r"upstream CA certificate in .*/ca\.crt has expired"):
        mint(files.open(), now=NOW + 101 * DAY)


def test_a_request_for_another_trust_domain_is_not_signed(files):
    files.write(ROOT)
    with pytest.raises(UpstreamUnavailable, match=r'CSR is not for trust domain "example\.org"'):
        mint(files.open(), trust_domain=TrustDomain("other.test"))


@pytest.mark.parametrize(
    ("chain", "key", "roots", "why"),
    [
        ([ROOT], key_pem(MIDDLE), (), "certificate and private key do not match"),
        ([MIDDLE], None, (), "certificate cannot be validated with the provided bundle or is not self-signed"),
        ([MIDDLE, ROOT], None, (), "with no bundle_file_path configured only self-signed CAs are supported"),
        ([MIDDLE], None, [ca(subject="other")], "certificate cannot be validated with the provided bundle"),
        ([leaf(ROOT), MIDDLE], None, [ROOT], "is not in order, leaf first"),
        ([ROOT], b"junk", (), r"unable to load upstream CA key: .*/ca\.key: it is no usable PEM"),
    ],
    ids=["another key", "not self-signed", "chain without bundle", "another bundle", "out of order", "junk key"],
)
def test_files_that_do_not_belong_together_are_refused_at_the_start(files, chain, key, roots, why):
    files.write(*chain, key=key, roots=roots)
    with pytest.raises(InvalidConfig, match=why):
        files.open()


@pytest.mark.parametrize("name", ["cert", "key"])
def test_a_file_that_is_missing_is_named(files, name):
    files.write(ROOT)
    getattr(files, name).unlink()
    with pytest.raises(InvalidConfig, match=rf"unable to load upstream CA {name}: .*/ca\.(crt|key): No such file"):
        files.open()


def test_a_key_with_a_password_is_refused(files):
    files.write(ROOT)
    files.key.write_bytes(
        ROOT.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
    )
    with pytest.raises(InvalidConfig, match="unable to load upstream CA key"):
        files.open()


def test_its_configuration_has_spires_keys(tmp_path):
    text = 'cert_file_path = "a.crt"\nkey_file_path = "a.key"\nbundle_file_path = "b.crt"\n'
    config = Block.parse(text).read(DiskUpstreamConfig)
    assert [path.name for path in (config.cert_file_path, config.key_file_path, config.bundle_file_path)] == [
        "a.crt",
        "a.key",
        "b.crt",
    ]
