"""The frame of DER that is our own, against the encoder of cryptography and by hand (X.690)."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hsm_ca import der


@pytest.mark.parametrize(
    ("size", "header"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65_536, "0483010000")],
)
def test_lengths_are_definite_and_shortest(size, header):
    encoded = der.octet_string(b"x" * size)
    assert encoded == bytes.fromhex(header) + b"x" * size
    assert der.content(encoded) == b"x" * size


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, "020100"), (127, "02017f"), (128, "02020080"), (256, "02020100"), (2**127, None)]
)
def test_integers_have_no_more_bytes_than_they_need_and_are_never_negative(value, encoded):
    made = der.integer(value)
    assert encoded is None or made == bytes.fromhex(encoded)
    assert int.from_bytes(der.content(made), signed=True) == value


def test_bits_tags_and_times():
    assert der.bit_string(b"\xab") == bytes.fromhex("030200ab")
    assert der.explicit(3, b"\x05\x00") == bytes.fromhex("a3020500")
    assert der.time(datetime(2049, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == b"\x17\x0d491231235959Z"
    assert der.time(datetime(2050, 1, 1, tzinfo=UTC)) == b"\x18\x0f20500101000000Z"


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_a_sequence_holds_its_parts(one, two):
    parts = der.octet_string(one), der.octet_string(two)
    assert der.content(der.sequence(*parts)) == b"".join(parts)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64))
def test_a_name_put_together_by_hand_is_the_librarys(text):
    attribute = der.sequence(bytes.fromhex("0603550403"), der.tagged(0x0C, text.encode()))
    made = der.sequence(der.tagged(0x31, attribute))
    assert made == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]).public_bytes()
