"""Text in pixels is found, blanked and found no more, in every layout of pixels; what cannot be looked at is held
back."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from planted import base, dataset, file, items

from privacy.deidentify import burned_in

needs_ocr = pytest.mark.skipif(not burned_in.available(), reason="rapidocr is not installed: pip install 'fedvision[dicom]'")
ROWS, COLUMNS = 112, 224
US, SC, CT = b"1.2.840.10008.5.1.4.1.1.6.1", b"1.2.840.10008.5.1.4.1.1.7", b"1.2.840.10008.5.1.4.1.1.2"


def written(text: str = "SMITH JANE 1951", grey: bool = True) -> np.ndarray:
    """A soft disc with a line of text over it."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    picture = Image.fromarray((90 * np.exp(-((x - 112) ** 2 + (y - 76) ** 2) / 1500)).astype(np.uint8))
    ImageDraw.Draw(picture).text((8, 6), text, fill=255, font=ImageFont.load_default(18))
    return np.asarray(picture if grey else picture.convert("RGB"))


def image(pixels: np.ndarray, sop_class: bytes = US, **more) -> bytes:
    frames = pixels if pixels.ndim == 4 or (pixels.ndim == 3 and pixels.shape[-1] != 3) else pixels[None]
    colour = frames.shape[-1] == 3
    size = pixels.dtype.itemsize
    elements = base() | {
        0x00080016: ("UI", sop_class),
        0x00280002: ("US", b"\3\0" if colour else b"\1\0"),
        0x00280004: ("CS", b"RGB" if colour else b"MONOCHROME2"),
        0x00280008: ("IS", b"%d" % len(frames)),
        0x00280010: ("US", ROWS.to_bytes(2, "little")),
        0x00280011: ("US", COLUMNS.to_bytes(2, "little")),
        0x00280100: ("US", bytes([8 * size, 0])),
        0x00280101: ("US", bytes([8 * size, 0])),
        0x00280102: ("US", bytes([8 * size - 1, 0])),
        0x7FE00010: ("OW" if size == 2 else "OB", frames.astype(f"<u{size}").tobytes()),
    }
    if colour:
        elements[0x00280006] = ("US", b"\0\0")
    return file(elements | more.get("elements", {}))


def encapsulated(source: bytes, fragment: bytes) -> bytes:
    """The file with `fragment` as JPEG baseline pixel data instead of its own."""
    items = b"\xfe\xff\0\xe0\0\0\0\0" + b"\xfe\xff\0\xe0" + len(fragment).to_bytes(4, "little") + fragment + b"\xfe\xff\xdd\xe0\0\0\0\0"
    source = source[: source.index(b"\xe0\x7f\x10\0OB")] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + items
    return source.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.4.50", 1)


def clean(bench, source: bytes, **policy):
    outcome, out = bench(options=["113101", "113107"], **policy).run(source)
    return outcome, pydicom.dcmread(io.BytesIO(out)) if out else None


@needs_ocr
@pytest.mark.parametrize("layout", ["grey", "colour", "16 bits", "inverted", "two frames"])
def test_a_name_in_the_pixels_is_blanked_and_the_rest_is_not_touched(bench, layout):
    grey = written()
    plain = written("")
    more = {0x00280004: ("CS", b"MONOCHROME1")} if layout == "inverted" else {}
    pictures = {
        "grey": grey,
        "colour": written(grey=False),
        "16 bits": grey.astype(np.uint16) * 200,
        "inverted": 255 - grey,
        "two frames": np.stack([plain, grey]),
    }
    outcome, found = clean(bench, image(pictures[layout], elements=more))
    assert outcome.state == "deidentified" and outcome.row["pixels"] == "blanked" and outcome.row["text"]["boxes"] >= 1
    after, before = found.pixel_array, pictures[layout]
    brightness = after if layout != "inverted" else 255 - after
    assert brightness.max() < (200 * 120 if layout == "16 bits" else 120)  # the disc is 90 at most, the letters 255
    below = (slice(None), slice(50, None)) if layout == "two frames" else (slice(50, None),)
    assert np.array_equal(after[below], before[below])
    codes = [item.CodeValue for item in found.DeidentificationMethodCodeSequence]
    assert "113101" in codes and found.BurnedInAnnotation == "NO"


@needs_ocr
def test_an_image_without_text_keeps_its_pixels_and_says_that_it_was_looked_at(bench):
    outcome, found = clean(bench, image(written("")))
    assert outcome.row["pixels"] == "checked" and found.BurnedInAnnotation == "NO"
    assert np.array_equal(found.pixel_array, written(""))


@needs_ocr
def test_no_header_switches_the_look_off(bench):
    outcome, _ = clean(bench, image(written(), elements={0x00280301: ("CS", b"NO")}))
    assert outcome.row["pixels"] == "blanked"


@needs_ocr
def test_around_the_calibrated_region_of_an_ultrasound_everything_is_black(bench):
    corners = {0x00186018: 40, 0x0018601A: 50, 0x0018601C: 199, 0x0018601E: 109}
    region = items(dataset({tag: ("UL", number.to_bytes(4, "little")) for tag, number in corners.items()}))
    outcome, found = clean(bench, image(written("") + 30, elements={0x00186011: ("SQ", region)}))
    pixels = found.pixel_array
    assert outcome.row["pixels"] == "blanked" and not pixels[:50].any() and not pixels[:, :40].any()
    assert np.array_equal(pixels[50:110, 40:200], (written("") + 30)[50:110, 40:200])


@needs_ocr
def test_a_ct_series_whose_sampled_image_holds_text_is_looked_at_whole(tmp_path):
    from privacy.deidentify.policy import Policy
    from privacy.deidentify.run import deidentify

    store = tmp_path / "store"
    store.mkdir()
    for number in (1, 2):  # the first image of a series is always looked at
        instance = {0x00080018: ("UI", b"1.2.826.0.1.77.%d" % number), 0x00200013: ("IS", b"%d" % number)}
        picture = written().astype(np.uint16) * 8
        (store / f"{number}.dcm").write_bytes(image(picture, CT, elements=instance))
    summary = deidentify(store, tmp_path / "out", tmp_path / "site", Policy())
    rows = (tmp_path / "out" / "manifest.jsonl").read_text()
    assert rows.count('"pixels":"blanked"') == 2 == summary.outputs and summary.adds_up


@needs_ocr
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_text_that_stands_on_its_end_or_on_its_head_is_blanked(bench, turns):
    picture = np.rot90(written("SMITH JANE 1951"), turns)
    sizes = {0x00280010: ("US", picture.shape[0].to_bytes(2, "little")), 0x00280011: ("US", picture.shape[1].to_bytes(2, "little"))}
    outcome, found = clean(bench, image(np.ascontiguousarray(picture), elements=sizes))
    assert outcome.row["pixels"] == "blanked" and found.pixel_array.max() < 120


@needs_ocr
def test_a_short_faint_line_on_black_is_blanked_and_no_pixel_of_it_is_left(bench):
    picture = Image.fromarray(np.zeros((ROWS, COLUMNS), np.uint8))
    ImageDraw.Draw(picture).text((150, 90), "F 68Y", fill=70, font=ImageFont.load_default(10))
    ImageDraw.Draw(picture).ellipse((20, 10, 90, 80), fill=255)
    outcome, found = clean(bench, image(np.asarray(picture)))
    assert outcome.row["pixels"] == "blanked" and not found.pixel_array[:, 100:].any()
    assert np.array_equal(found.pixel_array[:, :100], np.asarray(picture)[:, :100])


@needs_ocr
def test_colours_that_were_halved_for_jpeg_are_written_whole(bench):
    buffer = io.BytesIO()
    Image.fromarray(written(grey=False)).save(buffer, "JPEG", quality=95, subsampling=1)
    jpeg = buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2)
    outcome, found = clean(bench, encapsulated(image(written(grey=False), elements={0x00280004: ("CS", b"YBR_FULL_422")}), jpeg))
    assert outcome.row["pixels"] == "blanked" and found.PhotometricInterpretation == "YBR_FULL"
    assert found.pixel_array.shape == (ROWS, COLUMNS, 3) and found.pixel_array[..., 0].max() < 130


@needs_ocr
def test_every_frame_of_an_enhanced_object_is_looked_at_and_it_says_so(bench):
    enhanced = {0x00080016: ("UI", b"1.2.840.10008.5.1.4.1.1.2.1")}
    outcome, found = clean(bench, image(np.stack([written("")] * 3).astype(np.uint16), elements=enhanced))
    assert outcome.row["pixels"] == "checked" and found.BurnedInAnnotation == "NO" and "113101" in outcome.row["codes"]


def test_a_class_that_has_to_say_whether_it_holds_text_says_so_where_nobody_looked(bench):
    for sop_class, said in ((b"1.2.840.10008.5.1.4.1.1.7.2", "YES"), (b"1.2.840.10008.5.1.4.1.1.1.1", "YES"), (CT, None)):
        _, out = bench(options=["113107"]).run(image(written(""), sop_class))
        assert pydicom.dcmread(io.BytesIO(out)).get("BurnedInAnnotation") == said


@needs_ocr
def test_a_plain_ct_series_is_sampled_and_claims_nothing(bench):
    elements = {0x00200013: ("IS", b"5")}
    outcome, found = clean(bench, image(written("").astype(np.uint16), CT, elements=elements))
    assert outcome.row["pixels"] == "series sampled" and "113101" not in outcome.row["codes"]
    assert "BurnedInAnnotation" not in found


def test_pixels_at_risk_that_do_not_decode_are_held_back(bench, monkeypatch):
    if not burned_in.available():
        pytest.skip("rapidocr is not installed")
    assert clean(bench, encapsulated(image(written("")), b"no jpeg!"))[0].code == "PIXELS_UNREADABLE"


def test_without_ocr_what_can_hold_text_is_held_back(bench, monkeypatch):
    monkeypatch.setattr(burned_in, "available", lambda: False)
    assert clean(bench, image(written("")))[0].code == "TEXT_UNCHECKED"
    assert clean(bench, image(written("").astype(np.uint16), CT))[0].row["pixels"] == "unchanged"
