"""In compressed pixel data nothing passes but the image: what a stream says beside it, or what lies behind it, is zero."""

import io
import struct
import time

import numpy as np
import pydicom
import pytest
from PIL import Image
from planted import base
from planted import file as planted_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from privacy.deidentify import streams
from privacy.deidentify.states import Refused

NAME = b"Planted Patient 1951"
FRAMES = np.random.default_rng(1).integers(0, 60, (3, 40, 48)).astype(np.uint8)


def jpeg(frame: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def described(syntax: str, frames: int = 1) -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.file_meta = pydicom.dataset.FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    for tag, (vr, value) in base().items():
        if vr not in ("US", "OW", "OB"):
            found.add_new(tag, vr, value.decode().split("\\"))
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    found.Rows, found.Columns, found.SamplesPerPixel, found.NumberOfFrames = 40, 48, 1, frames
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit, found.PixelRepresentation = 7, 0
    return found


def file(syntax: str, fragments: list[bytes], frames: int = 1, table: bytes | None = None) -> bytes:
    found = described(syntax, frames)
    found.PixelData = encapsulate(fragments, has_bot=False)
    if table is not None:
        found.PixelData = found.PixelData[:4] + struct.pack("<I", len(table)) + table + found.PixelData[8:]
    found["PixelData"].VR, found["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    found.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def packed(syntax: str) -> bytes:
    """The first frame in another compression."""
    found = described("1.2.840.10008.1.2.1")
    found.PixelData = FRAMES[0].tobytes()
    found["PixelData"].VR = "OB"
    found.compress(syntax, FRAMES[0], generate_instance_uid=False)
    return next(generate_frames(found.PixelData, number_of_frames=1))


def segment(mark: int, value: bytes = NAME) -> bytes:
    return b"\xff" + bytes([mark]) + struct.pack(">H", len(value) + 2) + value


def jpegs() -> dict[str, tuple[list[bytes], int]]:
    """Where the name stands -> fragments, frames."""
    one, two, three = (jpeg(frame) for frame in FRAMES)
    steps = jpeg(FRAMES[0], progressive=True)
    last = steps.rindex(b"\xff\xda")
    return {
        "a comment": ([jpeg(FRAMES[0], comment=NAME)], 1),
        **{f"application segment {mark}": ([one[:2] + segment(0xE0 + mark) + one[2:]], 1) for mark in (0, 1, 2, 8, 14)},
        "behind a JFIF header": ([one[:2] + segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + NAME) + one[20:]], 1),
        "behind Adobe's": ([one[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + NAME) + one[2:]], 1),
        "a comment behind fill bytes": ([one[:2] + b"\xff\xff" + segment(0xFE) + one[2:]], 1),
        "a comment over two fragments": ([one[:2] + segment(0xFE)[:12], segment(0xFE)[12:] + one[2:]], 1),
        "a comment between scans": ([steps[:last] + segment(0xFE) + steps[last:]], 1),
        "a comment at the end": ([one[:-2] + segment(0xFE) + one[-2:]], 1),
        "behind the image": ([one + NAME], 1),
        "a fragment of its own": ([one, NAME], 1),
        "behind the second frame": ([one, two + NAME, three], 3),
    }


@pytest.mark.parametrize("where", jpegs())
def test_a_name_in_a_jpeg_stream_becomes_zeros_and_the_pixels_stay(bench, where):
    fragments, frames = jpegs()[where]
    _gone(bench, file(JPEGBaseline8Bit, fragments, frames))


def _gone(bench, source: bytes) -> None:
    outcome, written = bench().run(source)
    assert outcome.state == "deidentified", (outcome.code, outcome.note)
    assert b"Planted" in source
    assert b"Plan" not in written and b"1951" not in written and len(written) > 1000
    before, after = (pydicom.dcmread(io.BytesIO(data)).pixel_array for data in (source, written))
    assert np.array_equal(before, after)


def test_a_name_in_a_jpeg_2000_stream_becomes_zeros_and_the_pixels_stay(bench):
    stream = packed(JPEG2000Lossless).rstrip(b"\0")
    tile, data = stream.index(b"\xff\x90"), stream.index(b"\xff\x93")
    comment = segment(0x64, b"\0\1" + NAME)
    longer = (int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(comment)).to_bytes(4, "big")
    _gone(bench, file(JPEG2000Lossless, [stream[:tile] + comment + stream[tile:]]))
    _gone(bench, file(JPEG2000Lossless, [stream[: tile + 6] + longer + stream[tile + 10 : data] + comment + stream[data:]]))
    _gone(bench, file(JPEG2000Lossless, [stream + NAME]))


def test_a_name_in_a_frame_of_runs_becomes_zeros_and_the_pixels_stay(bench):
    frame = packed(RLELossless)
    _gone(bench, file(RLELossless, [frame + NAME]))
    _gone(bench, file(RLELossless, [frame[:20] + NAME + frame[40:]]))
    moved = frame[:4] + (84).to_bytes(4, "little") + frame[8:64]
    _gone(bench, file(RLELossless, [moved + NAME + frame[64:]]))


def test_offsets_are_worked_out_anew_and_are_no_place_for_text(bench):
    streams = [jpeg(frame) for frame in FRAMES]
    outcome, written = bench().run(file(JPEGBaseline8Bit, streams, 3, b"PlantedPlant"))
    assert outcome.state == "deidentified" and b"Planted" not in written
    assert np.array_equal(pydicom.dcmread(io.BytesIO(written)).pixel_array[0], np.asarray(Image.open(io.BytesIO(streams[0]))))
    assert bench().run(file(JPEGBaseline8Bit, streams, 3, NAME))[0].code == "PIXEL_LENGTH"


@pytest.mark.parametrize(
    ("mark", "more", "code"), [(0xC0, NAME, "PIXELS_UNREADABLE"), (0xDA, NAME, "PIXELS_UNREADABLE"), (0xDB, NAME, "PIXELS_UNREADABLE")]
)
def test_a_segment_longer_than_what_it_says_is_held_back(bench, mark, more, code):
    stream = jpeg(FRAMES[0])
    at = stream.index(bytes([0xFF, mark]))
    end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    longer = stream[: at + 2] + (end - at - 2 + len(more)).to_bytes(2, "big") + stream[at + 4 : end] + more + stream[end:]
    assert bench().run(file(JPEGBaseline8Bit, [longer]))[0].code == code


def test_more_streams_than_frames_and_a_name_among_the_packets_are_held_back(bench):
    streams = [jpeg(frame) for frame in FRAMES]
    assert bench().run(file(JPEGBaseline8Bit, [*streams, streams[0] + NAME], 3))[0].code == "PIXEL_LENGTH"
    stream = packed(JPEG2000Lossless).rstrip(b"\0")
    tile = stream.index(b"\xff\x90")
    longer = (int.from_bytes(stream[tile + 6 : tile + 10], "big") + len(NAME)).to_bytes(4, "big")
    hidden = stream[: tile + 6] + longer + stream[tile + 10 : -2] + NAME + stream[-2:]
    assert bench().run(file(JPEG2000Lossless, [hidden]))[0].code == "SELF_CHECK"


HOSTILE = {
    "a tile-part that ends where it starts": b"\xff\x4f\xff\x90\0\x0a\0\0\0\0\0\x0c\0\1\xff\x93" + bytes(100),
    "a tile-part shorter than its header": b"\xff\x4f\xff\x90\0\x0a\0\0\0\0\0\x01\0\1\xff\x93" + bytes(100),
    "a segment of no length": b"\xff\x4f\xff\x64\0\0" + bytes(100),
    "four billion segments": struct.pack("<I", 0xFFFFFFFF) + bytes(200),
    "segments behind the end": struct.pack("<16I", 15, *range(0xFFFFFF00, 0xFFFFFF0F)) + bytes(200),
    "runs of nothing": struct.pack("<16I", 1, 64, *[0] * 14) + b"\x80" * 5000,
    "fill bytes alone": b"\xff\xd8" + b"\xff" * 100_000,
    "segments of no length": b"\xff\xd8" + b"\xff\xfe\0\0" * 100,
    "nothing behind the start": b"\xff\xd8",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stream_that_lies_is_refused_and_walked_in_no_time(name):
    stream = HOSTILE[name]
    syntax = JPEGBaseline8Bit if stream[:2] == b"\xff\xd8" else JPEG2000Lossless if stream[:2] == b"\xff\x4f" else RLELossless
    begin = time.process_time()
    with pytest.raises(Refused, match="PIXELS_UNREADABLE"):
        streams.beside(stream, syntax, 40 * 48)
    assert time.process_time() - begin < 2


def test_native_pixels_that_begin_like_a_fragment_pass(bench):
    outcome, _ = bench().run(planted_file(base() | {0x7FE00010: ("OW", b"\xfe\xff\0\xe0" + bytes(124))}))
    assert outcome.state == "deidentified", outcome.note


def test_the_header_of_a_compressed_object_passes_without_its_pixels(bench):
    whole = file(JPEGBaseline8Bit, [jpeg(FRAMES[0])])
    outcome, written = bench(options=["113107"]).run(whole[: whole.rindex(b"\xe0\x7f\x10\0OB")])
    assert outcome.row["warnings"] == ["NO_PIXELS"] and b"\xe0\x7f\x10\0" not in written


def test_marks_that_no_packet_may_hold_are_refused_and_those_it_may_hold_pass():
    head = b"\xff\x4f\xff\x90\0\x0a\0\0" + struct.pack(">I", 22) + b"\0\1\xff\x93"
    assert streams.beside(head + b"\xff\x91\0\x04\0\0ab"[:8] + b"\xff\xd9", JPEG2000Lossless, 1) == []
    with pytest.raises(Refused, match="PIXELS_UNREADABLE"):
        streams.beside(head + b"abc\xff\xddxyz" + b"\xff\xd9", JPEG2000Lossless, 1)
