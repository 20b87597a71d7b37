"""What an upstream authority answers is believed only after it has served once, for an SVID that nobody gets."""

from datetime import timedelta

import pytest

from hsm_ca.upstream import MintedCa, check_minted
from spiffe_core.errors import UpstreamUnavailable
from tests.support.authorities import TD, authority_key
from tests.support.certificates import HOUR, NOW, Shape, basic_constraints, ca, leaf, sans, usage

DAY = timedelta(days=1)
LONG_AGO = (NOW - 2 * DAY, NOW - DAY)
TO_COME = (NOW + HOUR, NOW + DAY)
KEY = authority_key()
PLAIN = KEY._private._plain
ROOT = ca(subject="root")


def minted(issuer=ROOT, *, key=PLAIN, validity=(NOW - HOUR, NOW + HOUR), **bent):
    """Our CA certificate as the upstream signs it, with a part of it bent."""
    return ca(issuer, Shape(key=key, validity=validity), **{"subject": "ours", **bent})


def check(chain, roots=(ROOT,), key=KEY):
    answer = MintedCa(tuple(one.der for one in chain), tuple(one.der for one in roots))
    return check_minted(answer, key, TD, NOW)


def test_what_an_honest_upstream_signs_serves():
    issuer = check([minted()])
    assert issuer.upstream_authority_id
    assert issuer.not_after == NOW + HOUR


def test_what_it_signs_with_an_intermediate_serves_until_the_first_of_them_ends():
    middle = ca(ROOT, Shape(validity=(NOW - HOUR, NOW + timedelta(minutes=5))), subject="middle")
    assert check([minted(middle), middle]).not_after == NOW + timedelta(minutes=5)


def test_a_root_beside_ours_is_no_harm():
    assert check([minted()], [ca(subject="another"), ROOT])


@pytest.mark.parametrize(
    ("chain", "roots", "why"),
    [
        ([], [ROOT], "certificate chain has 0 certificates"),
        ([minted(key=None)], [ROOT], "it is for another key"),
        ([minted(without=[type(usage())])], [ROOT], "CA certificate has no key usage"),
        ([minted(extensions=[(usage("crl_sign"), True)])], [ROOT], "CA certificate lacks keyCertSign"),
        ([minted(extensions=[(basic_constraints(ca=False), True)])], [ROOT], "cA must be asserted"),
        ([minted(validity=LONG_AGO)], [ROOT], "certificate has expired"),
        ([minted(validity=TO_COME)], [ROOT], "certificate is not yet valid"),
        ([minted(ca(subject="unknown"))], [ROOT], "does not chain to an X.509 authority"),
        ([minted(ca(ROOT, subject="middle"))], [ROOT], "does not chain to an X.509 authority"),
        ([minted(ca(subject="root"))], [ROOT], "does not chain to an X.509 authority"),
        ([minted(ca(subject="root", path_length=0))], [], "the bundle has no X.509 authority"),
        ([minted()], [leaf(ROOT), ROOT], "of its roots, one is no CA certificate"),
    ],
    ids=[
        "nothing",
        "another key",
        "no key usage",
        "signs no certificates",
        "no ca",
        "expired",
        "not yet valid",
        "unknown root",
        "intermediate left out",
        "root of the same name",
        "no roots",
        "a leaf as root",
    ],
)
def test_what_cannot_serve_is_refused_with_the_reason(chain, roots, why):
    with pytest.raises(UpstreamUnavailable, match="X509 CA minted by upstream authority is invalid: .*" + why):
        check(chain, roots)


def test_a_root_that_allows_one_ca_below_is_found_out():
    root = ca(subject="root", path_length=1)
    assert check([minted(root)], [root])  # ours is the one CA below it ...
    middle = ca(root, subject="middle")
    with pytest.raises(UpstreamUnavailable, match="does not chain"):
        check([minted(middle), middle], [root])  # ... and may not be the second


def test_a_malformed_root_never_reaches_the_bundle():
    answer = MintedCa((minted().der,), (ROOT.der, b"junk"))
    with pytest.raises(UpstreamUnavailable, match="of its roots, one is a malformed certificate"):
        check_minted(answer, KEY, TD, NOW)


def test_a_malformed_certificate_is_refused():
    with pytest.raises(UpstreamUnavailable, match="malformed certificate"):
        check_minted(MintedCa((b"junk",), (ROOT.der,)), KEY, TD, NOW)


def test_an_upstream_may_leave_our_id_out_of_the_certificate():
    assert check([minted(without=[type(sans())])])
