"""Statistics from sums alone are those of the pooled images, exactly; counts below the floor are not told."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from fedvision.data.federation import open_federated
from fedvision.data.site import Examples, Source
from fedvision.data.statistics import BINS, constants, counted, federated_statistics, moments, over, written
from fedvision.errors import ConfigError, DataError
from fedvision.experiment import load

CONFIG = "data: {dataset: digits}\npartition: {scheme: dirichlet, sites: 5, alpha: 0.3}\nfederation: {rounds: 1}\n"


def held(images: np.ndarray, toy) -> Examples:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    dataset = replace(toy([0] * len(images), channels=images.shape[1]), images=images)
    return Examples(Source(dataset), np.arange(len(images)))


def test_mean_and_std_of_two_sites_are_those_worked_out_by_hand(toy) -> None:  # type: ignore[no-untyped-def]
    one, two = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
    two[0, 0, 0, 0] = 0
    nobody = Examples(Source(toy([0])), np.arange(0))
    total, sites = over([held(one, toy), held(two, toy), nobody], 1)
    assert sites == 2 and total["images"].tolist() == [2] and total["sum"].tolist() == [3 * 255]
    mean, std = moments(total)
    assert mean == [3 / 8] and std == [pytest.approx((15 / 64) ** 0.5, rel=1e-15)]
    assert total["intensity"][0, [0, BINS - 1]].tolist() == [5, 3] and total["seen"][0, [0, BINS - 1]].tolist() == [2, 1]


def test_moments_are_the_same_however_the_images_are_shared_out(toy) -> None:  # type: ignore[no-untyped-def]
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4)).astype(np.uint8)
    pooled = counted(held(images, toy), 1)
    for cuts in ([1, 2, 39], [13, 26]):
        total, _ = over([held(part, toy) for part in np.split(images, cuts)], 1)
        assert moments(total) == moments(pooled)
    mean, std = moments(pooled)
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)), rel=1e-14) and std == pytest.approx(
        (images / 255).std((0, 2, 3)), rel=1e-13
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def test_a_count_below_the_floor_is_not_told_and_never_one_alone(config: Path) -> None:
    experiment = load(config)
    data = open_federated(experiment)
    true = np.bincount(data.pooled("train").labels, minlength=10)
    floor = int(np.sort(true)[0]) + 1
    found = federated_statistics(experiment, floor)
    told = [count for count in found.labels.values() if count is not None]
    assert found.images == true.sum() and len(told) == 8 and all(count >= floor for count in told)
    assert sorted(true)[2:] == sorted(told)


def test_the_written_file_becomes_the_runs_constants_and_the_run_keeps_the_numbers_themselves(config: Path, tmp_path: Path) -> None:
    found = federated_statistics(load(config), 10)
    (tmp_path / "stats.yaml").write_text(written(found))
    experiment = load(config, ["data.statistics=stats.yaml"])
    assert (experiment.data.mean, experiment.data.std, experiment.data.statistics) == (found.mean, found.std, None)
    batch = open_federated(experiment).pooled("train")
    inputs = batch.batch(np.arange(len(batch))).inputs.double()
    assert abs(float(inputs.mean())) < 1e-6 and float(inputs.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_a_file_of_another_data_set_or_without_the_numbers_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"dataset": "elpv", "mean": [0.5], "std": [0.1]}))
    (tmp_path / "none.yaml").write_text("dataset: digits\nmean: [a]\n")
    with pytest.raises(ConfigError, match=r"is of the data set elpv, and data\.dataset = digits"):
        load(config, ["data.statistics=other.yaml"])
    with pytest.raises(ConfigError, match="has no mean and std, a number a channel"):
        constants(tmp_path / "none.yaml", "digits")
    (tmp_path / "zero.yaml").write_text("dataset: digits\nmean: [0.1]\nstd: [0.0]\n")
    with pytest.raises(ConfigError, match="must have a value above 0"):
        constants(tmp_path / "zero.yaml", "digits")
    with pytest.raises(ConfigError, match=r"data\.mean or data\.std exclude each other"):
        load(config, ["data.statistics=none.yaml", "data.mean=[0.5]"])


def test_statistics_over_two_sites_or_of_a_private_run_are_refused(config: Path) -> None:
    with pytest.raises(DataError, match="takes at least 3"):
        federated_statistics(load(config, ["partition.sites=2"]), 10)
    masked = ["secure_aggregation.enabled=true", "evaluation.sites=none", "evaluation.server.test=0.2", "federation.min_replies=4"]
    with pytest.raises(ConfigError, match=r"secure_aggregation\.enabled = true: these sums would leave the sites in the clear"):
        federated_statistics(load(config, masked), 10)


def test_images_that_are_all_alike_have_no_standard_deviation(toy) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="channel 0 is the same value everywhere"):
        moments(counted(held(np.full((3, 1, 4, 4), 9, np.uint8), toy), 1))
