"""Images of any size read in parts: each part is what the whole image holds there, and what does not read is named."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedvision.data import parts, tiff
from fedvision.data.decode import decoded
from fedvision.data.parts import opened
from fedvision.errors import CorruptImage, DataError

HEIGHT, WIDTH = 70, 93
Y, X = np.mgrid[:HEIGHT, :WIDTH]
COLOUR = np.stack([3 * X % 256, 2 * Y % 256, (X + Y) % 256], -1).astype(np.uint8)
WINDOW = [0.0, 255.0]


def agree(path: Path, wanted: np.ndarray, channels: int, scratch: Path) -> None:
    """Parts drawn at random hold what `wanted` [H,W] or [H,W,C] does."""
    found = opened(path, channels, 2, WINDOW, scratch)
    assert found.sides == wanted.shape[:2]
    chance = np.random.default_rng(0)
    for _ in range(10):
        where = tuple(slice(int(a), int(b) + 1) for a, b in (np.sort(chance.integers(0, side, 2)) for side in found.sides))
        its = wanted[where] if wanted.ndim == 2 else wanted[where].transpose(2, 0, 1)
        assert np.array_equal(found.part(where), its[None] if wanted.ndim == 2 else its)


def tiled(order: str, values: np.ndarray, side: int) -> bytes:
    """A TIFF in deflated tiles, as it is written by hand: values [H,W] or [H,W,3], uint8 or uint16."""
    height, width = values.shape[:2]
    channels, bits = (values.shape[2] if values.ndim == 3 else 1), 8 * values.itemsize
    padded = np.pad(values, [(0, -height % side), (0, -width % side)] + [(0, 0)] * (values.ndim - 2)).astype(
        values.dtype.newbyteorder(order)
    )
    tiles = [
        zlib.compress(np.ascontiguousarray(padded[top : top + side, left : left + side]).tobytes())
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    at = np.cumsum([8, *(len(t) for t in tiles)]).tolist()
    arrays, tags = b"", []
    for tag, kind, numbers in (
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits] * channels), (259, "H", [8]), (262, "H", [1 if channels == 1 else 2]),
        (277, "H", [channels]), (322, "I", [side]), (323, "I", [side]), (324, "I", at[:-1]), (325, "I", [len(t) for t in tiles]),
    ):  # fmt: skip
        content = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(content) > 4:
            own, arrays = struct.pack(order + "I", at[-1] + len(arrays)), arrays + content + b"\0" * (len(content) % 2)
        else:
            own = content.ljust(4, b"\0")
        tags.append(struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + own)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", at[-1] + len(arrays))
    return head + b"".join(tiles) + arrays + struct.pack(order + "H", len(tags)) + b"".join(tags) + b"\0" * 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_in_tiles_is_read_by_the_tile_in_either_byte_order_and_in_16_bits_as_training_reads_it(tmp_path: Path, order: str) -> None:
    path = tmp_path / "a.tif"
    for values, channels in ((COLOUR, 3), (COLOUR[..., 0], 1), (COLOUR[..., 0].astype(np.uint16) * 257, 1)):
        path.write_bytes(tiled(order, values, 32))
        agree(path, values if values.dtype == np.uint8 else COLOUR[..., 0], channels, tmp_path)
        whole = decoded(path, "a", None, channels)[0].transpose(1, 2, 0)
        agree(path, whole if channels == 3 else whole[..., 0], channels, tmp_path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("RGB", 1), ("P", 3), ("RGBA", 4), ("RGBA", 3)])
def test_a_tiff_in_strips_is_read_by_the_strip_as_training_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, mode: str, channels: int
) -> None:
    monkeypatch.setattr(tiff, "_ROWS", 4000)  # bytes: what is not compressed is cut into strips of its own
    monkeypatch.setattr(tiff, "_KEPT", 20_000)
    picture = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / "a.tif"
    picture.save(path, compression=compression, strip_size=6000)
    wanted = np.asarray(picture) if channels == 4 else decoded(path, "a", None, channels)[0].transpose(1, 2, 0)
    agree(path, wanted[..., 0] if channels == 1 else wanted, channels, tmp_path)
    assert len(opened(path, channels, 2, WINDOW, tmp_path).file.pieces.at) > 1 and not list(tmp_path.glob("*.npy"))  # type: ignore[attr-defined]


def test_other_pictures_are_decoded_once_upright_and_as_training_reads_them(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=_turned())
    Image.fromarray(COLOUR[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = np.dstack([COLOUR, np.where(X < 40, 0, 255).astype(np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    agree(tmp_path / "turned.png", np.rot90(COLOUR, -1), 3, tmp_path)
    agree(tmp_path / "deep.png", COLOUR[..., 0], 1, tmp_path)
    agree(tmp_path / "clear.png", np.where(X[..., None] < 40, 255, COLOUR).astype(np.uint8), 3, tmp_path)


def test_what_must_be_decoded_whole_is_refused_where_that_takes_too_much_memory_and_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff, "_LARGEST", HEIGHT * WIDTH - 1)  # pixels of one piece
    Image.fromarray(COLOUR).save(tmp_path / "one.tif", compression="tiff_lzw", tiffinfo={278: HEIGHT})
    Image.fromarray(COLOUR).save(tmp_path / "plain.png")
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=_turned())
    needed = {"plain.png": 4, "one.tif": 7, "turned.png": 8}  # bytes a pixel: Pillow's 4 of RGB, a second picture, libtiff's strip
    for name, own in needed.items():
        monkeypatch.setattr(parts, "_WHOLE", HEIGHT * WIDTH * own)
        assert opened(tmp_path / name, 3, 2, WINDOW, tmp_path).sides == ((WIDTH, HEIGHT) if name == "turned.png" else (HEIGHT, WIDTH))
        monkeypatch.setattr(parts, "_WHOLE", HEIGHT * WIDTH * own - 1)
        with pytest.raises(DataError, match=rf"{name} cannot be read in parts, .* give it as a TIFF in tiles"):
            opened(tmp_path / name, 3, 2, WINDOW, tmp_path)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_a_volume_is_read_by_the_window_within_its_black_and_white(tmp_path: Path, suffix: str) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(-100, 300, (7, 9, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"v.{suffix}")
    found = opened(tmp_path / f"v.{suffix}", 1, 3, [-50.0, 205.0], tmp_path)
    assert found.sides == (5, 9, 7)
    wanted = np.clip(values.transpose(2, 1, 0) + 50, 0, 255)
    for where in ((slice(0, 5), slice(0, 9), slice(0, 7)), (slice(2, 4), slice(8, 9), slice(1, 6))):
        assert np.array_equal(found.part(where)[0], wanted[where])


def test_what_does_not_read_is_named(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "a.tif").write_bytes(tiled("<", COLOUR, 32)[:2000])
    (tmp_path / "b.tif").write_bytes(tiled("<", COLOUR, 32).replace(b"x\x9c", b"xx"))
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    (tmp_path / "w.nii.gz").write_bytes(b"\x1f\x8b no")
    (tmp_path / "p.png").write_bytes(b"no")
    with pytest.raises(CorruptImage, match=r"a\.tif does not read as TIFF"):
        opened(tmp_path / "a.tif", 3, 2, WINDOW, tmp_path)
    with pytest.raises(CorruptImage, match=r"piece 0 of .*b\.tif does not decode"):
        opened(tmp_path / "b.tif", 3, 2, WINDOW, tmp_path).part((slice(0, 5), slice(0, 5)))
    with pytest.raises(CorruptImage, match=r"v\.nii holds what is no number at \[1, 2, 3\]"):
        opened(tmp_path / "v.nii", 1, 3, WINDOW, tmp_path).part((slice(2, 4), slice(0, 4), slice(1, 4)))
    for name, axes, said in (
        ("w.nii.gz", 3, "does not unpack"), ("p.png", 2, "does not decode as an image"), ("v.nii", 2, "is a volume, and the model takes"),
        ("p.png", 3, "is a picture, and the model takes volumes"), ("x.png", 2, "there is no image"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            opened(tmp_path / name, 1, axes, WINDOW, tmp_path)
