"""Images of one's own: a folder per class, a manifest, and everything that can be wrong with files."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedvision.data import decode, known_files
from fedvision.data.draw import draw
from fedvision.data.folder import image_folder
from fedvision.errors import ConfigError, CorruptImage, DataError
from fedvision.holdings import ImageFolder


def opened(folder: Path, **options):
    return image_folder(ImageFolder(root=str(folder), **{"channels": 1, **options}))


@pytest.fixture
def images(tmp_path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def cats_and_dogs(grey, images) -> Path:
    grey("cat/1.png", 10)
    grey("cat/deep/2.png", 20)
    grey("dog/1.bmp", 30)
    return images


# ------------------------------------------------------------------------------------------------- a folder per class


def test_each_folder_is_a_class_and_images_lie_at_any_depth(cats_and_dogs):
    dataset = opened(cats_and_dogs)
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_classes_that_are_numbers_are_in_counting_order(grey, images):
    for name in ("10", "9", "1"):
        grey(f"{name}/a.png", int(name))
    assert opened(images).classes == ("1", "9", "10")


def test_files_that_are_no_images_by_name_are_passed_over_and_counted(cats_and_dogs):
    (cats_and_dogs / "cat" / "notes.txt").write_text("whiskers")
    (cats_and_dogs / "README.md").write_text("pets")
    (cats_and_dogs / "cat" / ".DS_Store").write_bytes(b"\0")
    dataset = opened(cats_and_dogs)
    assert len(dataset) == 3
    assert dataset.notes == ("2 files were passed over, being no images by their names: README.md, cat/notes.txt",)


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data.root = .*nowhere: there is no such folder"):
        opened(tmp_path / "nowhere")


def test_an_empty_root_an_empty_class_and_an_image_without_a_class_are_errors(images, grey):
    images.mkdir()
    with pytest.raises(DataError, match="has no folder per class: make root/CLASS/IMAGE"):
        opened(images)
    grey("cat/1.png")
    (images / "dog").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*dog holds no image"):
        opened(images)
    grey("stray.png")
    (images / "dog").rmdir()
    with pytest.raises(DataError, match=r"stray.png lies outside the class folders"):
        opened(images)


def test_links_are_followed_but_a_loop_of_links_ends(cats_and_dogs, tmp_path):
    (cats_and_dogs / "cat" / "loop").symlink_to(cats_and_dogs / "cat")
    (cats_and_dogs / "cat" / "deep" / "up").symlink_to("..")
    (cats_and_dogs / "wolf").symlink_to(cats_and_dogs / "dog")
    (cats_and_dogs / "dog" / "gone.png").symlink_to(tmp_path / "nothing")
    dataset = opened(cats_and_dogs)
    assert dataset.classes == ("cat", "dog", "wolf")
    assert np.bincount(dataset.labels).tolist() == [2, 1, 1]


def test_a_pipe_is_not_waited_for(cats_and_dogs):
    os.mkfifo(cats_and_dogs / "cat" / "pipe.png")
    assert len(opened(cats_and_dogs)) == 3


# --------------------------------------------------------------------------------------------------------- a manifest


def test_a_manifest_gives_labels_subjects_sites_and_further_columns(grey, images, manifest, experiment):
    for name in "abcd":
        grey(f"{name}.png", ord(name))
    path = manifest(
        ("label", "path", "subject", "site", "scanner"),
        ("sick", "a.png", "p1", "north", "old"),
        ("well", "b.png", "p1", "north", "new"),
        (),
        ("well", " c.png ", "p2", "south", "old"),
        ("well", "./d.png", "p3", "south", "old"),
    )
    dataset = opened(images, manifest=str(path))
    assert dataset.classes == ("sick", "well") and dataset.labels.tolist() == [0, 1, 1, 1]
    assert dataset.subjects.tolist() == ["p1", "p1", "p2", "p3"]
    assert dataset.images[:, 0, 0, 0].tolist() == [ord(name) for name in "abcd"]
    by_site = draw(dataset, experiment({"scheme": "natural", "column": "site"}))
    by_scanner = draw(dataset, experiment({"scheme": "natural", "column": "scanner", "min_examples": 1}))
    assert by_site.sites == ("north", "south") and by_scanner.sites == ("new", "old")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([("file", "label"), ("a.png", "x")], r"has no column 'path'; its columns are file, label"),
        ([("path", "labels"), ("a.png", "x")], r"has no column 'label' \(is it 'labels'\?\)"),
        ([("path", "label", "label"), ("a.png", "x", "y")], r"has the column 'label' more than once"),
        ([("path", "label")], r"names no image"),
        ([], r"has no column 'path'; its columns are none"),
        ([("path", "label"), ("a.png", "x"), ("b.png", "x")], r"line 3: there is no file .*b.png"),
        ([("path", "label"), ("a.png", "")], r"line 2: the label is empty"),
        ([("path", "label", "subject"), ("a.png", "x", "")], r"line 2: the subject is empty"),
        ([("path", "label"), ("a.png", "x", "y")], r"line 2: 3 fields, and the header has 2"),
        ([("path", "label"), ("a.png", "x"), ("./a.png", "y")], r"line 3: ./a.png was already named in line 2"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named_with_its_line(grey, images, manifest, rows, complaint):
    grey("a.png")
    with pytest.raises(DataError, match=complaint):
        opened(images, manifest=str(manifest(*rows)))


def test_a_manifest_that_is_absent_or_not_text_is_refused(grey, images, tmp_path):
    grey("a.png")
    with pytest.raises(DataError, match=r"data.manifest = .*none.csv: there is no such file"):
        opened(images, manifest=str(tmp_path / "none.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        opened(images, manifest=str(tmp_path / "binary.csv"))


def test_classes_may_be_given_in_their_order_and_another_one_is_refused(cats_and_dogs):
    dataset = opened(cats_and_dogs, classes=["dog", "horse", "cat"])
    assert dataset.labels.tolist() == [2, 2, 0]
    with pytest.raises(DataError, match=r"dog/1.bmp has the unknown class 'dog'; data.classes has cat, dogs; did you"):
        opened(cats_and_dogs, classes=["cat", "dogs"])


# ------------------------------------------------------------------------------------------------------- broken images


def truncated(path: Path) -> None:
    whole = path.with_name("whole.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    path.write_bytes(whole.read_bytes()[:2000])
    whole.unlink()


BREAKS = {
    "truncated": truncated,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("I am not a picture"),
    "header": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_corrupt_image_ends_the_run_and_is_named(grey, images, how):
    grey("cat/1.png")
    BREAKS[how](images / "cat" / "2.png")
    with pytest.raises(CorruptImage, match=r"cat/2.png does not decode as an image: .*set data.on_corrupt = skip"):
        opened(images, image_size=4)


def test_corrupt_images_are_skipped_counted_and_listed_where_the_config_says_so(grey, images):
    for name, value in (("a", 1), ("c", 3), ("e", 5)):
        grey(f"cat/{name}.png", value)
    grey("dog/z.png", 9)
    BREAKS["text"](images / "cat" / "b.png")
    BREAKS["empty"](images / "cat" / "d.png")
    for _ in range(2):  # the second time from the cache
        dataset = opened(images, on_corrupt="skip")
        assert dataset.images[:, 0, 0, 0].tolist() == [1, 3, 5, 9]
        assert dataset.labels.tolist() == [0, 0, 0, 1]
        (note,) = dataset.notes
        assert note.startswith("2 corrupt images were skipped: cat/b.png") and "cat/d.png" in note
    with pytest.raises(CorruptImage, match=r"cat/b.png"):
        opened(images)  # what was skipped once still ends a run that is to stop


def test_a_folder_of_nothing_but_corrupt_images_is_an_error(images):
    (images / "cat").mkdir(parents=True)
    BREAKS["text"](images / "cat" / "a.png")
    with pytest.raises(DataError, match=r"none of the 1 images under .* decodes; the first says: cat/a.png"):
        opened(images, on_corrupt="skip")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(grey, images, monkeypatch):
    grey("cat/1.png", size=(30, 30))
    monkeypatch.setattr(decode, "MOST_PIXELS", 899)
    with pytest.raises(CorruptImage, match=r"cat/1.png: 30 × 30 pixels are more than 899"):
        opened(images)


def test_images_of_different_sizes_need_a_size_and_two_of_them_are_named(grey, images):
    grey("cat/1.png", size=(4, 4))
    grey("cat/2.png", size=(4, 4))
    grey("cat/3.png", size=(6, 5))
    complaint = r"cat/1.png has 4 × 4 pixels and cat/3.png has 6 × 5: set data.image_size"
    with pytest.raises(DataError, match=complaint):
        opened(images)
    assert opened(images, image_size=8).shape == (1, 8, 8)


# ------------------------------------------------------------------------------------------------ every kind of picture


def saved(images: Path, picture: Image.Image, name: str, **options) -> Path:
    (images / "x").mkdir(parents=True, exist_ok=True)
    picture.save(images / "x" / name, **options)
    return images


def only(dataset) -> np.ndarray:
    assert len(dataset) == 1
    return np.asarray(dataset.images[0])


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.ppm"])
def test_colour_comes_as_it_is_and_grey_as_its_luma(images, name):
    saved(images, Image.new("RGB", (4, 4), (100, 150, 200)), name, **({"lossless": True} if "webp" in name else {}))
    assert only(opened(images, channels=3))[:, 0, 0].tolist() == [100, 150, 200]
    assert only(opened(images, channels=1))[0, 0, 0] == 141  # 0.299·100 + 0.587·150 + 0.114·200 = 140.75


def test_grey_is_repeated_where_colour_is_wanted(images):
    saved(images, Image.new("L", (4, 4), 77), "a.png")
    assert only(opened(images, channels=3))[:, 0, 0].tolist() == [77, 77, 77]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "<u2"), ("a.tif", "<u2"), ("a.tif", ">u2")])
def test_16_bits_become_8_by_the_full_scale_and_it_is_said(images, name, kind):
    values = np.array([[0, 257], [32768, 65535]], dtype=kind)
    mode = "I;16B" if kind == ">u2" else "I;16"
    saved(images, Image.frombytes(mode, (2, 2), values.tobytes()), name)
    dataset = opened(images)
    assert only(dataset)[0].tolist() == [[0, 1], [128, 255]]
    assert "1 images of 16 bits were scaled to 8 bits by 255 / 65535" in dataset.notes[0]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_images_are_refused_because_their_scale_is_not_known(images, mode):
    saved(images, Image.new(mode, (4, 4), 100), "a.tif")
    with pytest.raises(DataError, match=r"x/a.tif holds 32-bit .* convert it to 8 or 16 bits"):
        opened(images, on_corrupt="skip")


def test_the_transparent_shows_white(images):
    saved(images, Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "a.png")
    assert only(opened(images, channels=3)).min() == 255


def test_a_palette_gives_its_colours_and_its_transparent_index_shows_white(images):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    saved(images, picture, "a.png", transparency=1)
    assert only(opened(images, channels=3))[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_black_and_white_of_one_bit_is_0_and_255(images):
    picture = Image.new("1", (2, 1))
    picture.putdata([0, 1])
    assert only(opened(saved(images, picture, "a.png")))[0, 0].tolist() == [0, 255]


def test_cmyk_is_read_as_colour(images):
    saved(images, Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "a.jpg")
    assert only(opened(images, channels=3)).min() > 250


def test_a_picture_that_exif_says_is_turned_is_turned(images):
    picture = Image.new("L", (3, 2))
    picture.putdata([1, 2, 3, 4, 5, 6])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    saved(images, picture, "a.png", exif=exif)
    assert only(opened(images))[0].tolist() == [[4, 1], [5, 2], [6, 3]]


# ----------------------------------------------------------------------------------------------------------- the cache


def test_images_are_mapped_from_a_file_that_is_made_once(cats_and_dogs, cache):
    first = opened(cats_and_dogs)
    (array,) = cache.glob("prepared/*/images")
    made = array.stat().st_mtime_ns
    assert isinstance(first.images, np.memmap)
    assert opened(cats_and_dogs).fingerprint() == first.fingerprint()
    assert array.stat().st_mtime_ns == made


def test_a_copied_folder_finds_the_same_cache_and_a_changed_byte_another(cats_and_dogs, cache, tmp_path, grey):
    import shutil

    opened(cats_and_dogs)
    opened(Path(shutil.copytree(cats_and_dogs, tmp_path / "copy")))
    assert len(list(cache.glob("prepared/*"))) == 1
    grey("cat/1.png", 11)
    assert opened(cats_and_dogs).images[0, 0, 0, 0] == 11
    assert len(list(cache.glob("prepared/*"))) == 2


def test_files_that_have_settled_are_not_read_again_and_a_change_is_still_seen(cats_and_dogs, monkeypatch, grey):
    monkeypatch.setattr(known_files, "_SETTLED", -1.0)
    first = opened(cats_and_dogs)
    with monkeypatch.context() as without_reading:
        without_reading.setattr(known_files, "_file_digests", lambda *_: pytest.fail("the files were read again"))
        assert opened(cats_and_dogs).fingerprint() == first.fingerprint()
    stat = (cats_and_dogs / "cat" / "1.png").stat()
    time.sleep(0.02)
    grey("cat/1.png", 12)
    os.utime(cats_and_dogs / "cat" / "1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert opened(cats_and_dogs).images[0, 0, 0, 0] == 12


@pytest.mark.parametrize("damage", ["cut", "changed", "no about", "bad about"])
def test_a_broken_cache_is_made_again(cats_and_dogs, cache, damage):
    first = opened(cats_and_dogs).fingerprint()
    (folder,) = cache.glob("prepared/*")
    whole = (folder / "images").read_bytes()
    about = folder / "about.json"
    if damage in {"cut", "changed"}:
        (folder / "images").write_bytes(whole[:-1] if damage == "cut" else b"\xff" + whole[1:])
    elif damage == "no about":
        about.unlink()
    else:
        about.write_text('{"kept": [0')
    assert opened(cats_and_dogs).fingerprint() == first
    assert (folder / "images").read_bytes() == whole
    assert [p.name for p in cache.glob("prepared/*")] == [folder.name]


def test_nothing_is_left_in_the_cache_by_a_run_that_stopped_at_a_corrupt_image(cats_and_dogs, cache):
    BREAKS["text"](cats_and_dogs / "dog" / "2.png")
    with pytest.raises(CorruptImage):
        opened(cats_and_dogs)
    assert not list((cache / "prepared").iterdir())


def test_what_a_killed_process_left_half_made_is_cleared_away_after_a_day(cats_and_dogs, cache):
    old, young = cache / "prepared" / ".old.x", cache / "prepared" / ".young.x"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 90_000,) * 2)
    opened(cats_and_dogs)
    assert young.exists() and not old.exists()


def test_a_cache_folder_that_cannot_be_made_names_the_variable(cats_and_dogs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDVISION_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set FEDVISION_CACHE to a folder that can be written"):
        opened(cats_and_dogs)


def test_two_processes_at_once_end_with_the_same_images(grey, images, cache):
    for n in range(300):
        grey(f"cat/{n:03}.png", n % 256, size=(32, 32))
    code = (
        "import sys; from fedvision.holdings import ImageFolder; from fedvision.data.folder import image_folder;"
        "print(image_folder(ImageFolder(root=sys.argv[1], channels=1)).fingerprint())"
    )
    command = [sys.executable, "-c", code, str(images)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) for _ in range(2)]
    said = {process.communicate(timeout=60)[0].strip() for process in both}
    assert said == {opened(images).fingerprint()}
    assert [p.name[0] for p in (cache / "prepared").iterdir()] != ["."] and len(list(cache.glob("prepared/*"))) == 1


def test_copies_of_an_image_are_counted_and_so_are_those_with_another_label(grey, images):
    grey("cat/1.png", 5)
    grey("cat/2.png", 5)
    grey("dog/1.png", 5)
    notes = opened(images).notes
    assert notes[0] == "2 images are byte for byte copies of another one"
    assert notes[1] == "1 of those copies carry another label than what they are a copy of"


def test_a_mean_for_three_channels_does_not_fit_grey_images(cats_and_dogs):
    with pytest.raises(ConfigError, match=r"data.mean = .* has 3 values, and the images have 1 channel"):
        opened(cats_and_dogs, mean=[0.5, 0.5, 0.5])
