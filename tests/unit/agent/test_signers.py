"""Which authority of a bundle an SVID names as its own."""

from agent.signers import Signers
from spiffe_core.bundle import X509Authority
from tests.support.pki import Realm

REALM, OTHER = Realm(), Realm()


def test_the_authority_is_found_among_others():
    signers = Signers([X509Authority(OTHER.root.der), X509Authority(REALM.root.der, tainted=True)])
    assert signers.signer_of(REALM.issue("/web").chain) == X509Authority(REALM.root.der, tainted=True)


def test_an_authority_that_is_not_there_is_not_found():
    assert Signers([X509Authority(OTHER.root.der)]).signer_of(REALM.issue("/web").chain) is None
    assert Signers([]).signer_of(REALM.issue("/web").chain) is None
