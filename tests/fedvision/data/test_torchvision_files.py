"""Each data set that torchvision reads, written as tiny files where its makers put them, and read through our door.

Image number n, counted through training and then test, is full of n, and its label is n modulo the number of classes.
"""

import bz2
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from fedvision.data.dataset import Dataset
from fedvision.data.torchvision_sets import RECIPES, torchvision_set
from fedvision.errors import DataError
from fedvision.experiment import Experiment
from fedvision.holdings import Torchvision
from fedvision.schema import validate

TRAIN, TEST = np.arange(0, 6, dtype=np.uint8), np.arange(6, 9, dtype=np.uint8)
PARTS = {"train": TRAIN, "test": TEST}


def filled(numbers: np.ndarray, *shape: int) -> np.ndarray:
    """uint8 [N,*shape], image n full of numbers[n]."""
    return np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (len(numbers), *shape)).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def of_mnist(name: str, prefix: Callable[[str], str] = lambda part: {"train": "train", "test": "t10k"}[part]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for part, numbers in PARTS.items():
            (raw / f"{prefix(part)}-images-idx3-ubyte").write_bytes(idx(filled(numbers, 28, 28)))
            (raw / f"{prefix(part)}-labels-idx1-ubyte").write_bytes(idx(numbers))

    return write


def cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batches = {f"data_batch_{k + 1}": part for k, part in enumerate(np.array_split(TRAIN, 5))} | {"test_batch": TEST}
    for name, numbers in batches.items():
        (folder / name).write_bytes(pickle.dumps({"data": filled(numbers, 3072), "labels": numbers.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"kind {k}" for k in range(10)]}))


def cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    for name, numbers in PARTS.items():
        coarse = [0] * len(numbers)
        (folder / name).write_bytes(pickle.dumps({"data": filled(numbers, 3072), "fine_labels": numbers.tolist(), "coarse_labels": coarse}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"kind {k}" for k in range(100)], "coarse_label_names": ["any"]}))


def svhn(root: Path) -> None:
    from scipy.io import savemat

    for part, numbers in PARTS.items():
        digits = np.where(numbers == 0, 10, numbers)  # the digit 0 is class 10 in these files
        savemat(root / f"{part}_32x32.mat", {"X": filled(numbers, 32, 32, 3).transpose(1, 2, 3, 0), "y": digits[:, None]})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    for part, numbers in PARTS.items():
        columns = filled(numbers, 3, 96, 96).copy()  # column by column, as these files are
        columns[:, 0, 5, :] = 99  # the sixth column of red
        (folder / f"{part}_X.bin").write_bytes(columns.tobytes())
        (folder / f"{part}_y.bin").write_bytes((numbers + 1).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("".join(f"kind {k}\n" for k in range(10)))


def usps(root: Path) -> None:
    for name, numbers in (("usps.bz2", TRAIN), ("usps.t.bz2", TEST)):
        lines = [f"{n + 1} " + " ".join(f"{k + 1}:{2 * (n + 0.5) / 255 - 1:.6f}" for k in range(256)) for n in numbers.tolist()]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for n in TRAIN.tolist():
        saved(base / "GTSRB" / "Training" / f"{n:05d}" / "00000_00000.ppm", n)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for k, n in enumerate(TEST.tolist()):
        saved(base / "GTSRB" / "Final_Test" / "Images" / f"{k:05d}.ppm", n)
        lines.append(f"{k:05d}.ppm;8;8;0;0;7;7;{n}")
    (base / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


def eurosat(root: Path) -> None:
    for n in [*TRAIN.tolist(), *TEST.tolist()]:
        saved(root / "eurosat" / "2750" / f"Kind{n}" / f"Kind{n}_1.jpg", n)


def flowers(root: Path) -> None:
    from scipy.io import savemat

    base = root / "flowers-102"
    for n in [*TRAIN.tolist(), *TEST.tolist()]:
        saved(base / "jpg" / f"image_{n + 1:05d}.jpg", n)
    savemat(base / "imagelabels.mat", {"labels": np.arange(1, 10)[None]})
    savemat(base / "setid.mat", {"trnid": [[1, 2, 3]], "valid": [[4, 5, 6]], "tstid": [[7, 8, 9]]})


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, numbers in (("trainval", TRAIN), ("test", TEST)):
        for n in numbers.tolist():
            saved(base / "images" / f"breed_{n % 6}_{n}.jpg", n)
        lines = [f"breed_{n % 6}_{n} {n % 6 + 1} 1 1" for n in numbers.tolist()]
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def pcam(root: Path) -> None:
    import h5py

    (root / "pcam").mkdir()
    for part, numbers in (("train", TRAIN[:4]), ("valid", TRAIN[4:]), ("test", TEST)):
        for letter, what in (("x", filled(numbers, 96, 96, 3)), ("y", (numbers % 2).reshape(-1, 1, 1, 1))):
            with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_{part}_{letter}.h5", "w") as file:
                file[letter] = what


def saved(path: Path, n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (n, n, n)).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))


WRITERS: dict[str, Callable[[Path], None]] = {
    "MNIST": of_mnist("MNIST"),
    "FashionMNIST": of_mnist("FashionMNIST"),
    "KMNIST": of_mnist("KMNIST"),
    "EMNIST": of_mnist("EMNIST", lambda part: f"emnist-balanced-{part}"),
    "CIFAR10": cifar10,
    "CIFAR100": cifar100,
    "SVHN": svhn,
    "STL10": stl10,
    "USPS": usps,
    "GTSRB": gtsrb,
    "EuroSAT": eurosat,
    "Flowers102": flowers,
    "OxfordIIITPet": pets,
    "PCAM": pcam,
}
SHAPES = {
    "SVHN": (3, 32, 32),
    "CIFAR10": (3, 32, 32),
    "CIFAR100": (3, 32, 32),
    "STL10": (3, 96, 96),
    "USPS": (1, 16, 16),
    "PCAM": (3, 96, 96),
}
GREY = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST"}


@pytest.fixture(autouse=True)
def any_checksum_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published checksums are of the whole data sets; that files are there is looked at as ever."""
    for module in ("cifar", "svhn", "stl10", "flowers102"):
        monkeypatch.setattr(sys.modules[f"torchvision.datasets.{module}"], "check_integrity", lambda path, md5=None: Path(path).is_file())


def opened(name: Any, root: Path, **data: Any) -> Dataset:
    return torchvision_set(Torchvision(name=name, root=str(root), **data))


@pytest.mark.parametrize("name", RECIPES)
def test_its_files_are_read_image_by_image_with_their_labels(name: str, tmp_path: Path) -> None:
    if name == "PCAM":
        pytest.importorskip("h5py")
    WRITERS[name](tmp_path)
    found = opened(name, tmp_path)
    assert found.shape == ((1, 28, 28) if name in GREY else SHAPES.get(name, (3, 8, 8)))
    assert found.images[:, -1, -1, -1].tolist() == list(range(9)), "training first, then test"
    of = {"OxfordIIITPet": 6, "PCAM": 2}.get(name, 1000)
    assert found.labels.tolist() == [n % of for n in range(9)]
    parts = {"EuroSAT": ["all"] * 9, "Flowers102": ["train"] * 3 + ["validation"] * 3 + ["test"] * 3}
    parts["PCAM"] = ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    assert found.columns["part"].tolist() == parts.get(name, ["train"] * 6 + ["test"] * 3)
    assert len(found.classes) > found.labels.max() and len(found.mean) == len(found.std) == found.shape[0]


def test_every_data_set_has_its_files_here() -> None:
    assert set(WRITERS) == set(RECIPES)


def test_stl10_is_turned_upright(tmp_path: Path) -> None:
    stl10(tmp_path)
    red = opened("STL10", tmp_path).images[0, 0]
    assert (red[:, 5] == 99).all() and not (red[5, :5] == 99).any()


def test_classes_have_their_names(tmp_path: Path) -> None:
    for name, first in [
        ("CIFAR100", "kind 0"), ("STL10", "kind 0"), ("EuroSAT", "Kind0"), ("FashionMNIST", "T-shirt/top"), ("Flowers102", "pink primrose"),
        ("OxfordIIITPet", "Breed 0"), ("EMNIST", "0"), ("USPS", "0"),
    ]:  # fmt: skip
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name)
        assert opened(name, tmp_path / name).classes[0] == first


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MNIST", "MNIST/raw/train-images-idx3-ubyte"),
        ("CIFAR10", "cifar-10-batches-py/data_batch_3"),
        ("SVHN", "test_32x32.mat"),
        ("STL10", "stl10_binary/train_X.bin"),
        ("USPS", "usps.t.bz2"),
        ("GTSRB", "gtsrb/GT-final_test.csv"),
        ("Flowers102", "flowers-102/setid.mat"),
        ("OxfordIIITPet", "oxford-iiit-pet/annotations/test.txt"),
        ("EuroSAT", "eurosat/2750/Kind3/Kind3_1.jpg"),
    ],
)
def test_a_file_that_is_cut_short_is_said_in_a_sentence_that_names_the_data_set(name: str, file: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2 + 1])
    with pytest.raises(DataError, match=rf"data.root = .*: {name} is not there, or not whole \(.+\); it needs "):
        opened(name, tmp_path)


def test_what_is_still_packed_is_not_read(tmp_path: Path) -> None:
    of_mnist("MNIST")(tmp_path)
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.rename(path.with_suffix(".gz"))
    with pytest.raises(DataError, match=r"it needs MNIST/raw/ with train-images-idx3-ubyte, .* t10k-labels-idx1-ubyte, unpacked"):
        opened("MNIST", tmp_path)


def test_one_of_them_is_trained_on(tmp_path: Path) -> None:
    from simulations.run import simulate

    usps(tmp_path)
    values = {
        "data": {"dataset": "torchvision", "name": "USPS", "root": str(tmp_path)},
        "partition": {"scheme": "natural", "column": "part", "min_examples": 2},
        "federation": {"rounds": 1},
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": 1, "batch_size": 2},
        "evaluation": {"server": None},
        "tracking": {"mlflow": None, "report": False},
    }
    folder, _ = simulate(validate(Experiment, values, "test"), tmp_path / "run", None, quiet=True)
    assert folder.rounds()[0]["answered"] == ["test", "train"]


def test_torchvision_has_not_moved_what_these_files_are() -> None:
    assert torchvision.datasets.CIFAR10.base_folder == "cifar-10-batches-py"
    assert [name for name, _ in torchvision.datasets.CIFAR10.train_list] == [f"data_batch_{k}" for k in range(1, 6)]
