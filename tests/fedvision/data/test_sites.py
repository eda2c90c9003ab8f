"""Sites: opened when asked for, read a batch at a time, each through its own camera."""

import numpy as np
import pytest
import torch

from fedvision.data import site as site_module
from fedvision.data.camera import drawn, seen
from fedvision.data.dataset import normalisation
from fedvision.data.draw import draw
from fedvision.data.federation import Federated, open_federated
from fedvision.errors import ConfigError, DataError
from fedvision.holdings import Camera

CAMERA = {"white_balance": 0.5, "gamma": 1.0, "noise": 0.1, "blur": 1.0, "jpeg": 50}


def opened(dataset, made, **options):
    return Federated(dataset, draw(dataset, made), **options)


def test_a_batch_is_normalised_and_in_the_order_that_was_asked_for(toy, experiment):
    site = opened(toy([0, 1, 0, 1], channels=3), experiment({"scheme": "iid", "sites": 1}, test=0.0)).site("site-000")
    batch = site.train.batch(np.array([3, 1]))
    assert batch.inputs.shape == (2, 3, 4, 4) and batch.inputs.dtype == torch.float32
    assert batch.targets.tolist() == [1, 1] and batch.targets.dtype == torch.int64
    expected = (torch.tensor([3.0, 1.0]) / 255 - 0.5) / 0.5
    assert torch.equal(batch.inputs[:, 2, 3, 3], expected)


def test_a_position_outside_is_an_error(toy, experiment):
    site = opened(toy([0] * 4), experiment({"scheme": "iid", "sites": 1})).site("site-000")
    with pytest.raises(IndexError):
        site.train.batch(np.array([len(site.train)]))


def test_a_batch_may_be_changed_without_changing_the_site(toy, experiment):
    train = opened(toy([0] * 4), experiment({"scheme": "iid", "sites": 1})).site("site-000").train
    before = train.batch(np.array([0])).inputs.clone()
    train.batch(np.array([0])).inputs.zero_()
    assert torch.equal(train.batch(np.array([0])).inputs, before)


@pytest.mark.parametrize("room", [0, 16 * 3 * 16])  # of memory: for nothing, or for the images but not as floats
@pytest.mark.parametrize("camera", [None, CAMERA])
def test_examples_too_large_to_keep_give_the_same_bytes_batch_by_batch(toy, experiment, monkeypatch, room, camera):
    made = experiment({"scheme": "iid", "sites": 2, "camera": camera})
    kept = opened(toy([0, 1] * 10, channels=3), made).pooled("train")
    positions = torch.arange(len(kept)).flip(0)
    whole = kept.batch(positions)
    monkeypatch.setattr(site_module, "_KEPT", room)
    piecewise = opened(toy([0, 1] * 10, channels=3), made).pooled("train")
    for start in (0, 5):
        batch = piecewise.batch(positions[start : start + 5])
        assert torch.equal(batch.inputs, whole.inputs[start : start + 5])
        assert torch.equal(batch.targets, whole.targets[start : start + 5])


def test_the_parts_of_all_sites_and_the_server_are_every_image_once(toy, experiment):
    made = experiment({"scheme": "iid", "sites": 3}, {"validation": 0.1, "test": 0.2}, validation=0.2)
    federated = opened(toy([0, 1] * 20), made)
    parts = [federated.site(id).part(name).rows for id in federated.sites for name in ("train", "validation", "test")]
    rows = np.concatenate([*parts, federated.server("test").rows, federated.server("validation").rows])
    assert sorted(rows) == list(range(40))


@pytest.mark.parametrize("part", ["train", "test"])
def test_pooled_data_is_what_the_sites_see_site_by_site_without_the_servers(toy, experiment, part):
    made = experiment({"scheme": "iid", "sites": 3, "camera": CAMERA}, {"validation": 0.1, "test": 0.2})
    federated = opened(toy([0, 1] * 10), made)
    pooled = federated.pooled(part)
    sites = [federated.site(id).part(part) for id in federated.sites]
    own = torch.cat([examples.batch(np.arange(len(examples))).inputs for examples in sites])
    assert torch.equal(pooled.batch(np.arange(len(pooled))).inputs, own)


def test_labels_and_subjects_follow_the_examples(toy, experiment):
    dataset = toy([0, 1, 2, 3], subjects=["a", "b", "c", "d"], ward=["x", "y", "x", "y"])
    made = experiment({"scheme": "natural", "column": "ward", "min_examples": 1}, test=0.0)
    train = opened(dataset, made).site("y").train
    assert train.labels.tolist() == [1, 3]
    assert train.subjects.tolist() == ["b", "d"]


def test_without_server_data_the_server_holds_nothing(toy, experiment):
    federated = opened(toy([0] * 4), experiment({"scheme": "iid", "sites": 1}))
    assert len(federated.server("test")) == len(federated.server("validation")) == 0


def test_an_unknown_site_or_part_is_refused(toy, experiment):
    federated = opened(toy([0] * 4), experiment({"scheme": "iid", "sites": 2}))
    with pytest.raises(DataError, match=r"no site 'site-2'.*site-000 to site-001"):
        federated.site("site-2")
    with pytest.raises(ValueError, match="train, validation and test"):
        federated.site("site-000").part("valid")
    with pytest.raises(ValueError, match="never trains"):
        federated.server("train")


def test_opened_sites_are_kept_up_to_a_number_of_bytes(toy, experiment):
    federated = opened(toy([0] * 300), experiment({"scheme": "iid", "sites": 100}), kept=5 * 4500)
    first = federated.site("site-000")
    assert federated.site("site-000") is first
    for id in federated.sites:
        federated.site(id)
    assert federated.site("site-000") is not first
    assert len(federated._kept) == 5  # each takes 4,096 bytes and three images of 64


# -------------------------------------------------------------------------------------------------------------- cameras


def test_each_site_sees_the_same_image_differently_and_the_same_way_twice():
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    limits, numbers = Camera(**CAMERA), np.array([7])
    at_a = [seen(image, drawn(limits, "a", 1), numbers, 1) for _ in range(2)]
    at_b = seen(image, drawn(limits, "b", 1), numbers, 1)
    assert np.array_equal(at_a[0], at_a[1]) and at_a[0].dtype == np.uint8
    assert np.abs(at_a[0].astype(int) - at_b).mean() > 2
    assert np.abs(at_a[0].astype(int) - image).mean() > 2


def test_cameras_stay_within_their_limits():
    limits = Camera(**CAMERA)
    cameras = np.stack([drawn(limits, f"site-{n}", 0) for n in range(200)])
    assert (np.abs(cameras[:, :3] - 1) <= 0.5).all()
    assert (np.abs(np.log2(cameras[:, 3])) <= 1).all()
    assert (cameras[:, 4] <= 0.1).all() and (cameras[:, 5] <= 1.0).all()
    assert (cameras[:, 6] >= 50).all() and (cameras[:, 6] <= 100).all()
    assert cameras.std(0).min() > 0


def test_a_camera_without_errors_changes_nothing():
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(seen(image, drawn(Camera(), "a", 0), np.array([0]), 0), image)


@pytest.mark.parametrize(
    ("camera", "expected"),
    [
        ([0.5, 1, 2, 1, 0, 0, 100], [[50], [100], [200]]),  # gains: half the red, twice the blue
        ([1, 1, 1, 2, 0, 0, 100], [[39]] * 3),  # 255 (100/255)² = 39.2
        ([3, 1, 1, 1, 0, 0, 100], [[255], [100], [100]]),  # what is too bright is cut off
    ],
)
def test_gains_and_gamma_are_those_of_hand_computation(camera, expected):
    image = np.full((1, 3, 1, 1), 100, np.uint8)
    assert seen(image, np.array(camera), np.array([0]), 0)[0, :, :, 0].tolist() == expected


def test_noise_has_its_standard_deviation_and_differs_from_image_to_image():
    images = np.full((2, 1, 100, 100), 128, np.uint8)
    noisy = seen(images, np.array([1, 1, 1, 1, 0.05, 0, 100]), np.array([0, 1]), 0)
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.03)
    assert not np.array_equal(noisy[0], noisy[1])


def test_every_image_is_seen_through_the_camera_of_the_site_that_holds_it(toy, experiment):
    dataset = toy([0] * 30)
    federated = opened(dataset, experiment({"scheme": "iid", "sites": 3, "camera": CAMERA}, seed=5))
    for id in federated.sites:
        train = federated.site(id).train
        expected = seen(dataset.images[train.rows], drawn(Camera(**CAMERA), id, 5), train.rows, 5)
        assert np.array_equal(train.images(np.arange(len(train))), expected)


def test_the_servers_images_are_seen_through_no_camera(toy, experiment):
    made = experiment({"scheme": "iid", "sites": 2, "camera": CAMERA}, {"validation": 0.0, "test": 0.5})
    server = opened(toy([0] * 20), made).server("test")
    assert server.images(np.arange(len(server)))[:, 0, 0, 0].tolist() == server.rows.tolist()


# ------------------------------------------------------------------------------------------------ from a config onwards


def test_a_worker_opens_the_partition_that_was_saved(experiment, tmp_path):
    made = experiment({"scheme": "dirichlet", "sites": 5}, seed=1)
    first = open_federated(made)
    first.partition.save(tmp_path / "partition.npz")
    worker = open_federated(experiment({"scheme": "dirichlet", "sites": 5}, seed=2), tmp_path / "partition.npz")
    assert np.array_equal(first.partition.site_of, worker.partition.site_of)
    assert first.fingerprint == worker.fingerprint


def test_a_loaded_partition_must_have_the_number_of_sites_that_the_config_says(experiment, tmp_path):
    path = tmp_path / "partition.npz"
    open_federated(experiment({"scheme": "iid", "sites": 5})).partition.save(path)
    with pytest.raises(ConfigError, match=r"partition.sites = 6, and the partition .* has 5 sites"):
        open_federated(experiment({"scheme": "iid", "sites": 6, "load": str(path)}))
    with pytest.raises(ConfigError, match="keeps no data for the server"):
        open_federated(experiment({"scheme": "iid", "sites": 5, "load": str(path)}, {"validation": 0, "test": 0.5}))


def test_a_mean_of_the_wrong_length_names_the_key_and_the_channels(experiment):
    with pytest.raises(ConfigError, match=r"data.mean = \[.*\] has 3 values, and the images have 1 channel:"):
        open_federated(experiment({"scheme": "iid", "sites": 2}, mean=[0.5, 0.5, 0.5]))
    with pytest.raises(ConfigError, match=r"data.std = \[1.0\] has 1 value, and the images have 3 channels"):
        normalisation([0.1, 0.2, 0.3], [1.0], 3, 0.5, 0.5)


def test_normalisation_is_the_configs_or_else_the_data_sets():
    assert normalisation([0.0], None, 1, 0.5, 0.25) == ((0.0,), (0.25,))
