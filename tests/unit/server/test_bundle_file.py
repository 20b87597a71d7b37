from dataclasses import dataclass
from stat import S_IMODE

import pytest

from server.bundle_file import BundleFile
from spiffe_core.bundle import Bundle, X509Authority
from spiffe_core.errors import Unavailable
from spiffe_core.ids import TrustDomain
from spiffe_core.runtime.cli.pem import read_certificates
from tests.support.certificates import ca
from tests.support.needs import unprivileged


@dataclass
class Trust:
    own: Bundle


def bundle(*ders: bytes) -> Bundle:
    return Bundle(TrustDomain("example.org"), tuple(X509Authority(der) for der in ders))


async def test_the_file_holds_what_the_bundle_holds_and_follows_it(tmp_path):
    first, second = ca(subject="first").der, ca(subject="second").der
    trust = Trust(bundle(first))
    file = BundleFile(tmp_path / "bundle.crt", trust)
    await file.follow()
    assert read_certificates((tmp_path / "bundle.crt").read_bytes()) == (first,)
    trust.own = bundle(first, second)
    await file.follow()
    assert read_certificates((tmp_path / "bundle.crt").read_bytes()) == (first, second)
    trust.own = bundle(second)
    await file.follow()
    assert read_certificates((tmp_path / "bundle.crt").read_bytes()) == (second,)


async def test_everybody_may_read_the_file_and_its_owner_alone_may_write_it(tmp_path):
    await BundleFile(tmp_path / "bundle.crt", Trust(bundle(ca().der))).follow()
    assert S_IMODE((tmp_path / "bundle.crt").stat().st_mode) == 0o644


async def test_a_file_that_is_current_is_left_alone(tmp_path):
    file = BundleFile(tmp_path / "bundle.crt", Trust(bundle(ca().der)))
    await file.follow()
    before = (tmp_path / "bundle.crt").stat()
    await file.follow()
    assert (tmp_path / "bundle.crt").stat().st_ino == before.st_ino


async def test_a_file_that_was_removed_is_written_again(tmp_path):
    file = BundleFile(tmp_path / "bundle.crt", Trust(bundle(ca().der)))
    await file.follow()
    (tmp_path / "bundle.crt").unlink()
    await file.follow()
    assert (tmp_path / "bundle.crt").exists()


async def test_a_folder_that_is_missing_is_named(tmp_path):
    file = BundleFile(tmp_path / "missing" / "bundle.crt", Trust(bundle(ca().der)))
    with pytest.raises(Unavailable, match=r"^server\.bundle_path: cannot write .*/missing/bundle\.crt: No such file"):
        await file.follow()


@unprivileged
async def test_a_folder_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    trust = Trust(bundle(ca().der))
    file = BundleFile(tmp_path / "bundle.crt", trust)
    await file.follow()
    before = (tmp_path / "bundle.crt").read_bytes()
    trust.own = bundle(ca(subject="other").der)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(Unavailable, match="Permission denied"):
            await file.follow()
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "bundle.crt").read_bytes() == before
