"""Images and masks in folders of one's own: read as they are laid out, and refused or left out by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedvision.data.dataset import Dataset
from fedvision.data.federation import open_dataset
from fedvision.errors import ConfigError, DataError
from fedvision.experiment import from_values

CLASSES = ["ground", "road", "roof"]


def mask(number: int, height: int = 9, width: int = 7) -> np.ndarray:
    values = np.zeros((height, width), np.uint8)
    values[2 : 4 + number, 1:4] = 1 + number % 2
    values[0, 0] = 255
    return values


def laid_out(root: Path, n: int = 4, images: str = "images", masks: str = "masks", mode: str = "RGB", palette: bool = False) -> Path:
    for number in range(n):
        for folder, picture, suffix in (
            (images, Image.fromarray(np.full((9, 7, 3), 40 * number, np.uint8)).convert(mode), "png" if mode == "RGBA" else "jpg"),
            (masks, Image.fromarray(mask(number)), "png"),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if palette and folder == masks:
                picture.putpalette([7 * k % 256 for k in range(768)])
            picture.save(root / folder / f"p{number}.{suffix}")
    return root


def opened(root: Path, **data: Any) -> Dataset:
    values = {
        "task": "segmentation", "model": {"name": "unet"}, "partition": {"scheme": "iid", "sites": 2}, "federation": {"rounds": 1},
        "data": {"dataset": "mask_folder", "root": str(root), "classes": CLASSES, **data},
    }  # fmt: skip
    return open_dataset(from_values(values))


@pytest.mark.parametrize("palette", [False, True])
def test_folders_as_voc_has_them_are_read_with_their_void_and_their_palette(tmp_path: Path, palette: bool) -> None:
    laid_out(tmp_path, images="JPEGImages", masks="SegmentationClass", palette=palette)
    found = opened(tmp_path, images="JPEGImages", masks="SegmentationClass")
    assert found.images.shape == (4, 3, 9, 7) and found.targets is not None
    assert np.array_equal(found.targets, np.stack([mask(n) for n in range(4)])) and found.labels.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_have_the_channels_that_are_asked_for(tmp_path: Path, channels: int, mode: str) -> None:
    assert opened(laid_out(tmp_path, mode=mode), channels=channels).shape == (channels, 9, 7)


def test_images_and_masks_are_resized_together_and_no_class_is_made_up(tmp_path: Path) -> None:
    found = opened(laid_out(tmp_path), image_size=16)
    assert found.shape == (3, 16, 16) and found.targets is not None and set(np.unique(found.targets)) == {0, 1, 2, 255}


def test_values_name_the_classes_and_ignore_what_is_not_known(tmp_path: Path) -> None:
    laid_out(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        values = np.asarray(Image.open(path)).astype(int)
        Image.fromarray(np.choose(np.minimum(values, 3), [10, 255, 7, 99]).astype(np.uint8)).save(path)
    found = opened(tmp_path, values=[10, 255, 7], ignore=[99])
    assert found.targets is not None and np.array_equal(found.targets, np.stack([mask(n) for n in range(4)]))


def test_sub_folders_are_a_column_and_a_manifest_says_more(tmp_path: Path) -> None:
    for place in ("north", "south"):
        laid_out(tmp_path / place, 2)
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / place / kind).rename(tmp_path / kind / place)
    assert opened(tmp_path).columns["folder"].tolist() == ["north", "north", "south", "south"]
    manifest = tmp_path / "all.csv"
    manifest.write_text(
        "path,mask,subject,site\nimages/north/p0.jpg,masks/north/p0.png,ann,A\nimages/south/p1.jpg,masks/south/p1.png,bob,B\n"
    )
    found = opened(tmp_path, manifest=str(manifest))
    assert found.columns["site"].tolist() == ["A", "B"] and found.subjects is not None and found.subjects.tolist() == ["ann", "bob"]


def test_a_list_of_names_says_which_are_taken_and_what_it_names_must_be_there(tmp_path: Path) -> None:
    laid_out(tmp_path)
    (tmp_path / "masks/p3.png").unlink()  # as of most images of Pascal VOC
    listing = tmp_path / "train.txt"
    listing.write_text("p2 1\n\np0\n")
    found = opened(tmp_path, names=str(listing))
    assert found.targets is not None and np.array_equal(found.targets, np.stack([mask(0), mask(2)])) and not found.notes
    listing.write_text("p2\np9\n")
    with pytest.raises(DataError, match=r"train.txt names 'p9' \(1 such\), and there is no image of that name"):
        opened(tmp_path, names=str(listing))


def test_reading_keeps_a_few_pairs_in_memory_and_a_second_opening_reads_no_file_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    from fedvision.data import known_files, prepared_masks

    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    chance = np.random.default_rng(0)
    pictures, masks = chance.integers(0, 255, (40, 256, 256), np.uint8), chance.integers(0, 3, (40, 256, 256), np.uint8)
    for number in range(40):
        Image.fromarray(pictures[number]).save(tmp_path / f"images/{number:02}.png", compress_level=0)
        Image.fromarray(masks[number]).save(tmp_path / f"masks/{number:02}.png", compress_level=0)
    opened(laid_out(tmp_path / "small"), channels=1)  # imports what it imports
    monkeypatch.setattr(known_files, "_CHECKED", 0)
    monkeypatch.setattr(known_files, "_SETTLED", -1.0)
    tracemalloc.start()
    found = opened(tmp_path, channels=1)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < found.images.nbytes
    assert isinstance(found.images, np.memmap) and np.array_equal(found.images[:, 0], pictures) and np.array_equal(found.targets, masks)
    monkeypatch.setattr(prepared_masks, "read_pair", lambda *_: pytest.fail("an image was read again"))
    again = opened(tmp_path, channels=1)
    assert again.fingerprint() == found.fingerprint()


def test_what_is_broken_in_the_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    first = opened(laid_out(tmp_path)).fingerprint()
    (array,) = cache.glob("prepared/*/masks")
    array.write_bytes(b"\0" * array.stat().st_size)
    assert opened(tmp_path).fingerprint() == first


def _missing(root: Path) -> None:
    (root / "masks/p2.png").unlink()


def _out_of_range(root: Path) -> None:
    values = mask(2)
    values[8, 6] = 3
    Image.fromarray(values).save(root / "masks/p2.png")


def _smaller(root: Path) -> None:
    Image.fromarray(mask(2)[:, :6]).save(root / "masks/p2.png")


def _colour(root: Path) -> None:
    Image.new("RGB", (7, 9)).save(root / "masks/p2.png")


def _broken_mask(root: Path) -> None:
    path = root / "masks/p2.png"
    path.write_bytes(path.read_bytes()[:40])


def _broken_image(root: Path) -> None:
    (root / "images/p2.jpg").write_bytes(b"no picture")


def _empty(root: Path) -> None:
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(root / "masks/p2.png")


BAD = {
    _missing: ("their mask is missing", "p2.jpg has no mask"),
    _out_of_range: ("a class is out of range", r"p2.png holds 3 at \[8, 6\], and its classes have the values 0, 1, 2 \(data.values\), 255"),
    _smaller: ("their mask is of another size", "p2.jpg has 7 × 9 pixels, and its mask .*p2.png 6 × 9"),
    _colour: ("their mask does not decode", "p2.png has the channels R, G, B: a mask has one"),
    _broken_mask: ("their mask does not decode", "p2.png does not decode as a mask"),
    _broken_image: ("their image does not decode", "p2.jpg does not decode"),
    _empty: ("their mask is empty", "p2.png shows no class but ground"),
}


@pytest.mark.parametrize("harm", BAD)
def test_what_is_wrong_is_named_and_stops_or_is_left_out_and_counted(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(laid_out(tmp_path))
    kind, said = BAD[harm]
    with pytest.raises(DataError, match=f"{said}.*; set data.on_bad = skip"):
        opened(tmp_path, on_empty="bad")
    found = opened(tmp_path, on_empty="bad", on_bad="skip")
    assert len(found) == 3 and len(found.notes) == 1 and found.notes[0].startswith(f"1 of the images left out, {kind}: ")
    if harm is _empty:
        assert len(opened(tmp_path)) == 4


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"values": [0, 1]}, "give one value for each of the 3 classes"),
        ({"ignore": [2]}, "2 is the value of a class too"),
        ({"classes": ["a", "a"]}, "names a class twice"),
        ({"window": [5.0, 5.0]}, "white must be above black"),
        ({"names": "a.txt", "manifest": "b.csv"}, "data.names and data.manifest exclude each other"),
        ({"annotations": "a.json", "values": [0, 1, 2]}, "data.values and data.annotations exclude each other"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(laid_out(tmp_path), **data)


def test_sizes_that_differ_ask_for_one(tmp_path: Path) -> None:
    laid_out(tmp_path)
    Image.new("RGB", (8, 9)).save(tmp_path / "images/p3.jpg")
    Image.new("L", (8, 9)).save(tmp_path / "masks/p3.png")
    with pytest.raises(DataError, match=r"p0.jpg has 7 × 9 pixels and .*p3.jpg has 8 × 9: set data.image_size"):
        opened(tmp_path)
    assert opened(tmp_path, image_size=8).shape == (3, 8, 8)


def volumes(root: Path) -> np.ndarray:
    """Two volumes with their masks, as they are on disk; what is in each mask, [X,Y,Z]."""
    nibabel = pytest.importorskip("nibabel")
    there = np.zeros((7, 9, 5), np.int16)
    there[2:4, 3:6, 1:3] = 1
    for kind, values in (("images", (there * 100 - 50).astype(np.float32)), ("masks", there)):
        (root / kind).mkdir(exist_ok=True)
        for number in range(2):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), root / kind / f"v{number}.nii.gz")
    return there


def test_nifti_volumes_are_read_within_their_window(tmp_path: Path) -> None:
    there = volumes(tmp_path)
    found = opened(tmp_path, window=[-50.0, 50.0])
    assert found.images.shape == (2, 1, 5, 9, 7) and found.targets is not None
    assert np.array_equal(found.targets[0], there.transpose(2, 1, 0)) and np.array_equal(found.images[0, 0], 255 * there.transpose(2, 1, 0))


def _saved(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)


def _cut_off(root: Path, there: np.ndarray) -> None:
    path = root / "images/v1.nii.gz"
    path.write_bytes(path.read_bytes()[:90])


def _not_a_number(root: Path, there: np.ndarray) -> None:
    values = there.astype(np.float32)
    values[1, 2, 3] = np.nan
    _saved(root / "images/v1.nii.gz", values)


def _moved(root: Path, there: np.ndarray) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[2, 3] = 1.5
    _saved(root / "masks/v1.nii.gz", there, affine)


def _flat(root: Path, there: np.ndarray) -> None:
    _saved(root / "images/v1.nii.gz", there[..., 0].astype(np.float32))


def _thinner(root: Path, there: np.ndarray) -> None:
    _saved(root / "masks/v1.nii.gz", there[..., :4])


def _fractions(root: Path, there: np.ndarray) -> None:
    _saved(root / "masks/v1.nii.gz", there * np.float32(0.5))


def _turned(root: Path, there: np.ndarray) -> None:
    for kind, values in (("images", there.astype(np.float32)), ("masks", there)):
        _saved(root / kind / "v1.nii.gz", values, np.diag([-2.0, 2.0, 3.0, 1.0]))


BAD_VOLUMES = {
    _turned: ("their axes point elsewhere", r"the axes of images/v1.nii.gz point LAS, and those of images/v0.nii.gz RAS"),
    _cut_off: ("their image does not decode", "v1.nii.gz does not read as NIfTI"),
    _not_a_number: ("their image holds what is no number", r"v1.nii.gz holds nan at \[1, 2, 3\], and 1 voxels are no numbers in all"),
    _moved: ("their mask lies elsewhere in space", "put voxels up to 1.5 mm apart, and a voxel has 2 mm"),
    _flat: ("their image does not decode", "v1.nii.gz has 2 axes, and a volume has three"),
    _thinner: ("their mask is of another size", "has 7 × 9 × 5 pixels, and its mask .* 7 × 9 × 4"),
    _fractions: ("their mask does not decode", "holds 0.5: a mask holds whole numbers"),
}


@pytest.mark.parametrize("harm", BAD_VOLUMES)
def test_what_is_wrong_with_a_volume_is_named_and_stops_or_is_left_out_and_counted(
    tmp_path: Path, harm: Callable[[Path, np.ndarray], None]
) -> None:
    harm(tmp_path, volumes(tmp_path))
    kind, said = BAD_VOLUMES[harm]
    with pytest.raises(DataError, match=f"{said}.*; set data.on_bad = skip"):
        opened(tmp_path)
    found = opened(tmp_path, on_bad="skip")
    assert len(found) == 1 and len(found.notes) == 1 and found.notes[0].startswith(f"1 of the images left out, {kind}: ")


def test_a_mask_a_few_hundredths_of_a_voxel_away_is_in_its_place(tmp_path: Path) -> None:
    there = volumes(tmp_path)
    _saved(tmp_path / "masks/v1.nii.gz", there, np.diag([2.003, 2.0, 3.0, 1.0]))
    assert len(opened(tmp_path)) == 2


def test_volumes_of_other_depths_are_cut_or_filled_up_to_the_one_that_is_asked_for(tmp_path: Path) -> None:
    there = volumes(tmp_path)
    for kind, values in (("images", there.astype(np.float32)), ("masks", there)):
        _saved(tmp_path / kind / "v1.nii.gz", values[..., :3])
    with pytest.raises(DataError, match=r"has 5 slices and .* has 3: set data.depth"):
        opened(tmp_path)
    found = opened(tmp_path, depth=4, window=[0.0, 1.0])
    assert found.images.shape == (2, 1, 4, 9, 7) and found.targets is not None
    assert np.array_equal(found.targets[0], there.transpose(2, 1, 0)[:4]) and np.array_equal(
        found.targets[1, :3], there.transpose(2, 1, 0)[:3]
    )
    assert (found.targets[1, 3] == 255).all() and (found.images[1, 0, 3] == 0).all()
