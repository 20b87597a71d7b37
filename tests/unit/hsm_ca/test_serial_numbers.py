"""Serial numbers and key identifiers, which are made from prepared parts."""

import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm_ca.templates import key_identifier, new_serial
from spiffe_core.bundle import PublicKey


def test_serial_numbers_are_positive_of_128_bits_at_most_and_never_the_same():
    numbers = [new_serial() for _ in range(5000)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 2**128 for number in numbers)
    assert max(numbers) > 2**127  # all bits are used


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_gives_out_none_of_its_parents_numbers():
    new_serial()  # from now on there are numbers in reserve
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"".join(new_serial().to_bytes(16) for _ in range(200)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        given = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {given[at : at + 16] for at in range(0, len(given), 16)}
    assert len(theirs) == 200
    assert not theirs & {new_serial().to_bytes(16) for _ in range(200)}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_the_identifier_of_an_ec_key_is_the_one_of_rfc_5280(curve):
    _check(ec.generate_private_key(curve).public_key())


def test_the_identifier_of_an_rsa_key_is_the_one_of_rfc_5280():
    _check(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key())


def _check(key: PublicKey) -> None:
    assert key_identifier(key) == x509.SubjectKeyIdentifier.from_public_key(key).digest
