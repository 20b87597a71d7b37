"""HTTP/2 frames come out as they went in, however they are cut, and none that is too long is collected."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiffe_core.runtime.h2 import MAX_FRAME, SETTINGS, Frame, FrameReader, FrameTooLong

FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**31 - 1),
    st.binary(max_size=100),
)


@given(frames=st.lists(FRAMES, max_size=8), cuts=st.lists(st.integers(0, 900), max_size=8))
def test_frames_are_read_in_whatever_pieces_they_come(frames, cuts):
    stream = b"".join(frame.encode() for frame in frames)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = FrameReader()
    read = [frame for start, end in itertools.pairwise(edges) for frame in reader.feed(stream[start:end])]
    assert read == frames


def test_a_frame_of_the_greatest_length_is_read():
    frame = Frame(SETTINGS, payload=bytes(MAX_FRAME))
    assert list(FrameReader().feed(frame.encode())) == [frame]


def test_a_frame_that_announces_more_is_refused_before_it_comes():
    head = (MAX_FRAME + 1).to_bytes(3) + bytes(6)
    with pytest.raises(FrameTooLong, match="16385 bytes"):
        list(FrameReader().feed(head))


def test_the_reserved_bit_of_a_stream_number_is_ignored():
    head = bytes([0, 0, 0, SETTINGS, 0, 0x80, 0, 0, 1])
    assert list(FrameReader().feed(head)) == [Frame(SETTINGS, 0, 1)]
