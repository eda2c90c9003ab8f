"""The picture and the table of who holds what."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
from PIL import Image

import fedvision.data
from fedvision.data.draw import draw
from fedvision.data.federation import Federated
from fedvision.data.picture import draw_partition, show, skew, table

SERVER_SHARES = {"validation": 0.1, "test": 0.2}
MODULES = [module.name for module in pkgutil.iter_modules(fedvision.data.__path__)]


def opened(dataset, made):
    return Federated(dataset, draw(dataset, made))


@pytest.mark.parametrize("module", MODULES)
def test_what_the_docstrings_show_is_so(module):
    assert doctest.testmod(importlib.import_module(f"fedvision.data.{module}")).failed == 0


def test_the_bars_are_the_counts_of_each_site_and_class(toy, experiment):
    made = experiment({"scheme": "dirichlet", "sites": 4, "alpha": 0.5}, SERVER_SHARES)
    federated = opened(toy([0, 1, 2] * 40), made)
    sites, server, *_ = draw_partition(federated).axes
    counts = federated.partition.counts(federated.dataset.labels, 3).sum(1)
    assert [bar.get_height() for bar in sites.patches] == counts[:-1].T.ravel().tolist()
    assert [bar.get_height() for bar in server.patches] == counts[-1].tolist()
    assert [tick.get_text() for tick in sites.get_xticklabels()] == list(federated.sites)


def test_many_sites_become_a_map_whose_columns_are_shares_and_a_histogram_of_sizes(toy, experiment):
    federated = opened(toy([0, 1] * 300), experiment({"scheme": "shards", "sites": 100, "shards_per_site": 1}))
    heat, sizes, *_ = draw_partition(federated).axes
    shares = heat.images[0].get_array()
    assert shares.shape == (2, 100)
    assert np.allclose(shares.sum(0), 1)
    assert sum(bar.get_height() for bar in sizes.patches) == 100


@pytest.mark.parametrize("sites", [2, 250])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_partition_can_be_drawn(toy, experiment, tmp_path, sites, channels):
    section = {"scheme": "iid", "sites": sites, "min_examples": 1, "camera": {"noise": 0.1}}
    made = experiment(section, SERVER_SHARES)
    draw_partition(opened(toy([0, 1] * 200, channels=channels), made)).savefig(tmp_path / "p.png", dpi=40)
    assert np.asarray(Image.open(tmp_path / "p.png")).std() > 10


def test_the_strip_of_a_site_shows_its_images_through_its_camera(toy, experiment):
    made = experiment({"scheme": "iid", "sites": 1, "camera": {"white_balance": 0.9}})
    federated = opened(toy([0] * 5), made)
    *_, strip, _ = (axes for axes in draw_partition(federated).axes)
    shown = strip.images[0].get_array()
    train = federated.site("site-000").train
    assert shown[0, :4].tolist() == [train.images(np.array([0]))[0, 0, 0, 0]] * 4


def test_the_table_names_sites_parts_classes_and_notes(toy, experiment):
    wards = ["north"] * 10 + ["south"] * 10
    dataset = toy([0] * 5 + [1] * 15, subjects=wards, ward=wards)
    text = table(opened(dataset, experiment({"scheme": "natural", "column": "ward"})))
    assert "20 images of 4 × 4 × 1, 2 classes, 2 sites" in text
    assert "north                          8       0       2  class 0 50%, class 1 50%" in text
    assert "note: inside a site, images are split by image" in text


def test_a_table_of_many_sites_shows_the_first_and_counts_the_rest(toy, experiment):
    text = table(opened(toy([0, 1] * 50), experiment({"scheme": "iid", "sites": 50})))
    assert "site-019" in text and "site-020" not in text and "... and 30 more" in text


def test_skew_is_none_where_sites_are_alike_and_grows_to_one():
    assert skew(np.array([[10, 10], [3, 3]])) == 0
    assert skew(np.eye(50, dtype=int)) == pytest.approx(0.98)


def test_show_writes_the_picture_and_returns_the_table(experiment, tmp_path):
    made = experiment({"scheme": "dirichlet", "sites": 5}, SERVER_SHARES)
    assert "digits" in show(made, tmp_path / "partition.png")
    assert Image.open(tmp_path / "partition.png").size == (1320, 935)
    assert "site-004" in show(made)
