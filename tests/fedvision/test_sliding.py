"""Windows over an image of any size: every pixel is labelled once, and seams do not show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segments import experiment
from torch import Tensor

from fedvision import label_files
from fedvision.errors import FedvisionError
from fedvision.labelling import fitting, segment_file
from fedvision.sliding import Windows, blending, segment
from simulations.run import simulate


def run_over(image: Tensor, classes: int, windows: Windows, network: object = None) -> tuple[np.ndarray, np.ndarray]:
    """The labels of image [C,...], and how often each pixel was written."""
    labels, written = np.zeros(image.shape[1:], np.int64), np.zeros(image.shape[1:], int)

    def write(where: tuple[slice, ...], part: np.ndarray) -> None:
        labels[where] = part
        written[where] += 1

    pixelwise = lambda x: torch.stack([x[:, 0] * k - k * k / 2 for k in range(classes)], 1)  # noqa: E731  the class nearest to the value
    segment(network or pixelwise, image.shape[1:], classes, windows, lambda where: image[(slice(None), *where)], write)  # type: ignore[arg-type]
    return labels, written


@pytest.mark.parametrize("sides", [(37, 53), (5, 7), (16, 16), (100, 9), (11, 23, 17)])
@pytest.mark.parametrize("waiting", [1, 3000, 1 << 20])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_pixelwise_network_gives_each_pixel_its_own_label_once_whatever_the_windows(
    sides: tuple[int, ...], waiting: int, overlap: float
) -> None:
    image = torch.randint(0, 5, (1, *sides), generator=torch.Generator().manual_seed(0)).float()
    labels, written = run_over(image, 5, Windows((8,) * len(sides), overlap, waiting))
    assert (written == 1).all() and np.array_equal(labels, image[0].numpy())


def test_panels_change_nothing_but_the_memory() -> None:
    """A network that looks around, so that the blend matters."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 6, 7, padding=3)
    image = torch.randn(1, 41, 67)
    with torch.no_grad():
        found = [run_over(image, 6, Windows((16, 16), 0.5, waiting), network)[0] for waiting in (1, 4 * 6 * 16 * 20, 1 << 24)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[1], found[2])


def test_the_blend_is_the_weighted_mean_of_all_windows_by_hand() -> None:
    torch.manual_seed(1)
    network, image = torch.nn.Conv2d(1, 3, 5, padding=2), torch.randn(1, 12, 12)
    weight, total = blending((8, 8)), torch.zeros(3, 12, 12)
    with torch.no_grad():
        for top in (0, 4):
            for left in (0, 4):
                total[:, top : top + 8, left : left + 8] += weight * network(image[None, :, top : top + 8, left : left + 8])[0]
        assert np.array_equal(run_over(image, 3, Windows((8, 8), 0.5), network)[0], total.argmax(0).numpy())
    assert (weight > 0).all() and weight[0, 0] < weight[3, 3]


def test_windows_shrink_until_the_logits_of_many_classes_fit() -> None:
    assert fitting((256, 256), 4) == (256, 256) and fitting((256, 256), 1000) == (64, 64) and fitting((512, 256), 10**6) == (32, 32)
    assert fitting((8, 256, 40), 10**4) == (8, 32, 32)


def test_a_run_labels_pictures_and_arrays_of_any_size_and_refuses_others_by_name(tmp_path: Path) -> None:
    folder, _ = simulate(
        experiment(federation={"rounds": 1}, tracking={"mlflow": None, "report": False, "pictures": 0}), tmp_path / "run", None, quiet=True
    )
    pixels = np.random.default_rng(0).integers(0, 255, (61, 83), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", pixels)
    counts = segment_file(folder.path, tmp_path / "a.png", tmp_path / "out.png", 16)
    segment_file(folder.path, tmp_path / "a.npy", tmp_path / "out.npy", 16)
    labels = np.load(tmp_path / "out.npy")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), labels) and labels.shape == (61, 83)
    assert list(counts.values()) == np.bincount(labels.ravel(), minlength=3).tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "a.png", "a.npy", "out.png", "out.npy"}
    assert json.loads((folder.path / "partition.json").read_text())["mean"] == [0.5]
    np.save(tmp_path / "tiny.npy", pixels[:3, :5])
    assert sum(segment_file(folder.path, tmp_path / "tiny.npy", tmp_path / "tiny_out.npy").values()) == 15
    np.save(tmp_path / "c.npy", np.zeros((5, 5, 3), np.uint8))
    for image, out, said in (
        ("c.npy", "o.npy", r"holds uint8 \[5, 5, 3\], and the model takes uint8 \[H, W\]"),
        ("no.png", "o.npy", "there is no image"),
        ("a.png", "o.jpg", r"as .npy, .png, .nii or .nii.gz"),
        ("a.png", "o.nii.gz", "a NIfTI file holds a volume"),
        ("a.png", "none/o.png", "there is no folder"),
        ("a.png", "a.png", "would be written over the image"),
    ):
        with pytest.raises(FedvisionError, match=said):
            segment_file(folder.path, tmp_path / image, tmp_path / out)
    for window, overlap, said in (
        (0, 0.25, "--window 0"),
        (-5, 0.25, "--window -5"),
        (16, 1.0, "--overlap 1"),
        (16, -0.1, "--overlap -0.1"),
    ):
        with pytest.raises(FedvisionError, match=said):
            segment_file(folder.path, tmp_path / "a.png", tmp_path / "o.png", window, overlap)


def test_a_volume_is_labelled_as_its_array_and_keeps_its_place_in_space(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    quiet = {"mlflow": None, "report": False, "pictures": 0}
    untrained = experiment(options={"depth": 5, "n": 8}, federation={"rounds": 1}, training={"learning_rate": 1e-6}, tracking=quiet)
    folder, _ = simulate(untrained, tmp_path / "run", None, quiet=True)
    values = np.random.default_rng(0).integers(0, 255, (23, 31, 9), np.uint8)  # X, Y, Z
    affine = np.array([[0.0, -2, 0, 5], [2, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "v.nii.gz")
    np.save(tmp_path / "v.npy", np.ascontiguousarray(values.transpose(2, 1, 0)))
    segment_file(folder.path, tmp_path / "v.npy", tmp_path / "plain.npy")
    wanted = np.load(tmp_path / "plain.npy")
    assert len(np.unique(wanted)) > 1
    for out in ("a.nii", "a.nii.gz"):
        counts = segment_file(folder.path, tmp_path / "v.nii.gz", tmp_path / out)
        found = nibabel.load(tmp_path / out)
        assert np.array_equal(np.asarray(found.dataobj), wanted.transpose(2, 1, 0)) and np.allclose(found.affine, affine)
        assert list(counts.values()) == np.bincount(wanted.ravel(), minlength=3).tolist()
    nibabel.save(nibabel.Nifti1Image(values[..., None].repeat(2, 3), affine), tmp_path / "two.nii.gz")
    with pytest.raises(FedvisionError, match=r"/two\.nii\.gz holds \[23, 31, 9, 2\], and the model takes"):
        segment_file(folder.path, tmp_path / "two.nii.gz", tmp_path / "o.nii")
    with pytest.raises(FedvisionError, match="a PNG holds one plane"):
        segment_file(folder.path, tmp_path / "v.npy", tmp_path / "o.png")


def test_labels_are_refined_where_it_is_asked_for(tmp_path: Path) -> None:
    quiet = {"mlflow": None, "report": False, "pictures": 0}
    folder, _ = simulate(
        experiment(segmentation={"crf": {"similar": 4.0}}, federation={"rounds": 1}, tracking=quiet), tmp_path / "run", None, quiet=True
    )
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)).save(tmp_path / "a.tif")
    for name, crf in (("own", None), ("with", True), ("without", False)):
        segment_file(folder.path, tmp_path / "a.tif", tmp_path / f"{name}.npy", 32, crf=crf)
    own, refined, plain = (np.load(tmp_path / f"{name}.npy") for name in ("own", "with", "without"))
    assert np.array_equal(own, refined) and not np.array_equal(own, plain)


@pytest.mark.parametrize(("dtype", "sides"), [(np.uint8, (700, 9)), (np.uint16, (5, 400))])
def test_labels_are_written_as_png_of_8_and_of_16_bits_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, sides: tuple[int, int]
) -> None:
    monkeypatch.setattr(label_files, "_AT_ONCE", 1000)
    labels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, sides, dtype)
    np.save(tmp_path / "l.npy", labels)
    label_files.deliver(tmp_path / "l.npy", tmp_path / "l.png", tmp_path / "image.tif")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "l.png")), labels)
