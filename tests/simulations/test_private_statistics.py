"""Statistics of a private run's sites: bounded, noised to the scale that is promised, charged first, and counted with the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedvision.data.dataset import Dataset
from fedvision.data.federation import open_federated
from fedvision.data.site import Examples, Source
from fedvision.data.statistics import federated_statistics, written
from fedvision.errors import ConfigError, DataError, RunFolderError
from fedvision.experiment import Experiment, from_values
from privacy.accountants import Phase, epsilon
from privacy.ledger.keys import Roster, roster_path
from privacy.ledger.verify import verify
from privacy.noise import for_simulation_only, secret
from privacy.on_server import promise, words
from privacy.plan import plan_of
from privacy.statistics import SCALE, SENSITIVITY, Parts, clipped, noisy, of_site, rounded, together
from simulations.private_statistics import private_statistics
from simulations.statistics import statistics

SITES, SIGMA = 4, 2.0
EXAMPLE = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-4, "sampling_rate": 0.1, "divisor": 25.0}
SITE = {"mechanism": "central", "noise_multiplier": 1.0, "delta": 1e-4}
REPEATED = {"simulation_only_seed": 3}


def experiment(privacy: dict[str, Any], **blocks: Any) -> Experiment:
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": SITES},
        "federation": {"rounds": 2, "weighting": "uniform", "min_replies": 3}, "model": {"name": "mlp", "width": 4},
        "training": {"steps": 1} | ({} if privacy["mechanism"] == "dp_sgd" else {"batch_size": 8, "epochs": None}),
        "evaluation": {"sites": "none", "server": {"test": 0.2}}, "tracking": {"mlflow": None, "report": False}, "privacy": privacy,
    }  # fmt: skip
    return from_values(values | blocks)


def holder(images: np.ndarray, labels: list[int], subjects: list[str]) -> Examples:
    dataset = Dataset("few", images, np.array(labels), ("a", "b"), (0.5,) * 3, (0.5,) * 3, np.array(subjects))
    return Examples(Source(dataset), np.arange(len(images)))


EXTREME = np.stack([np.zeros((3, 4, 4)), np.full((3, 4, 4), 255), np.arange(48).reshape(3, 4, 4) * 5, np.full((3, 4, 4), 7)]).astype(
    np.uint8
)


@pytest.mark.parametrize("unit, units", [("example", [[0], [1], [2], [3]]), ("subject", [[0, 1], [2, 3]]), ("site", [[0, 1, 2, 3]])])
def test_one_unit_moves_the_sum_by_no_more_than_the_sensitivity_whatever_its_images_hold(unit: str, units: list[list[int]]) -> None:
    parts, subjects, labels = Parts(3, 2, several=False), ["p", "p", "q", "q"], [0, 0, 1, 1]
    whole = rounded(of_site(holder(EXTREME, labels, subjects), parts, unit))
    for unit_rows in units:
        rest = [row for row in range(4) if row not in unit_rows]
        without = np.zeros(len(whole), np.int64)
        if rest:
            without = rounded(of_site(holder(EXTREME[rest], [labels[r] for r in rest], [subjects[r] for r in rest]), parts, unit))
        moved = float(np.linalg.norm(whole - without)) / SCALE
        assert 1 < moved <= SENSITIVITY + 1e-4
    assert np.linalg.norm(rounded(clipped(np.full(200, 9.0)))) / SCALE <= SENSITIVITY, "also where a vector were longer"


def test_the_noise_has_the_standard_deviation_that_the_charge_says() -> None:
    drawn = noisy(np.zeros(400_000), SIGMA, secret())
    assert drawn.std() == pytest.approx(SIGMA * 5**0.5, rel=0.01) and abs(drawn.mean()) < 5 * SIGMA * 5**0.5 / 400_000**0.5


@pytest.mark.parametrize("privacy", [EXAMPLE, SITE], ids=["example", "site"])
def test_what_is_released_is_the_sum_and_the_noise_of_each_that_draws_it_masked_or_not(privacy: dict[str, Any], tmp_path: Path) -> None:
    plain = experiment(privacy | REPEATED, partition={"scheme": "iid", "sites": 24})
    data, parts = open_federated(plain), Parts(1, 10, several=False)
    own = {site: of_site(data.site(site).train, parts, "example" if privacy is EXAMPLE else "site") for site in data.sites}
    total = np.sum([own[site] for site in data.sites], axis=0)
    for who in data.sites if privacy is EXAMPLE else ["coordinator"]:
        total = noisy(total, SIGMA, for_simulation_only(3, "statistics", who))
    expected = parts.taken_apart(total)
    found = private_statistics(plain, SIGMA, tmp_path / "clear")
    units = expected["units"][0]
    assert found.images == round(units)
    assert found.mean == pytest.approx([expected["sum"][0] / units], abs=1e-4)
    assert found.std == pytest.approx([(expected["squares"][0] / units - (expected["sum"][0] / units) ** 2) ** 0.5], abs=1e-4)
    assert list(found.labels.values()) == [max(0, round(float(count))) for count in expected["labels"]]
    assert found.released is not None and found.released.spread == pytest.approx(
        SIGMA * SENSITIVITY * (24 if privacy is EXAMPLE else 1) ** 0.5
    )
    blocks = {"secure_aggregation": {"enabled": True}, "federation": {"rounds": 1, "weighting": "uniform", "min_replies": 17}}
    masked = experiment(privacy | REPEATED, partition={"scheme": "iid", "sites": 24}, **blocks)
    under = private_statistics(masked, SIGMA, tmp_path / "masked")
    assert under.masked and under.mean == found.mean and under.labels == found.labels


def test_each_site_pays_first_and_one_that_cannot_is_not_in_the_sum(tmp_path: Path) -> None:
    poor = experiment(EXAMPLE, conditions={"budgets": {"site-002": 0.1}})
    found = private_statistics(poor, SIGMA, tmp_path / "spent")
    run = yaml.safe_load((tmp_path / "spent" / "summary.json").read_text())["run"]
    verdict = verify(tmp_path / "spent", Roster.read(roster_path(run)), asks_prv=False)
    assert found.sites == SITES - 1 and verdict.closed
    assert {record.site: record.rounds for record in verdict.sites} == {f"site-{n:03d}": int(n != 2) for n in range(SITES)}
    with pytest.raises(RunFolderError, match="spent"):
        private_statistics(poor, SIGMA, tmp_path / "spent")


def test_a_run_that_uses_them_says_what_both_come_to_and_refuses_what_was_released_otherwise(tmp_path: Path) -> None:
    def using(statistics: Any, privacy: dict[str, Any]) -> Experiment:
        (tmp_path / "s.yaml").write_text(written(statistics))
        return experiment(privacy, data={"dataset": "digits", "statistics": str(tmp_path / "s.yaml")})

    noised = private_statistics(experiment(EXAMPLE), SIGMA, tmp_path / "spent")
    run = using(noised, EXAMPLE)
    both = epsilon([Phase(1.0, 0.1, 2), Phase(SIGMA, 1.0, 1)], 1e-4, "pld", "add_remove")
    assert (run.data.mean, run.data.statistics_noise) == (noised.mean, SIGMA)
    assert promise(plan_of(run), run)["epsilon_with_statistics"] == pytest.approx(both) and both > plan_of(run).guarantee.epsilon
    assert any("with the statistics" in line and str(together(plan_of(run), run)) in line for line in words(plan_of(run), run))
    with pytest.raises(ConfigError, match="protects one example, and this run promises something for each site"):
        using(noised, SITE)
    exact = federated_statistics(experiment(EXAMPLE).model_copy(update={"privacy": None}), 10)
    with pytest.raises(ConfigError, match="exact sums over private images"):
        using(exact, EXAMPLE)


def test_what_cannot_be_promised_is_refused_by_name(tmp_path: Path) -> None:
    subject = EXAMPLE | {"unit": "subject", "max_images": 4}
    with pytest.raises(ConfigError, match=r"privacy\.unit = subject"):
        private_statistics(experiment(subject), SIGMA, tmp_path / "a")
    with pytest.raises(DataError, match="nothing can be told of so few"):
        private_statistics(experiment(SITE | {"simulation_only_seed": 1}), SIGMA, tmp_path / "b")  # one noise in ten says 4 sites are 9
    with pytest.raises(DataError, match="are needed"):
        private_statistics(
            experiment(EXAMPLE, conditions={"budgets": {f"site-{n:03d}": 0.01 for n in range(SITES)}}), SIGMA, tmp_path / "c"
        )


@pytest.mark.parametrize("asked", [{"noise": 3.0}, {"spent": Path("spent")}], ids=str)
def test_noise_that_is_asked_for_where_nothing_is_promised_is_refused_before_exact_sums_are_told(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"promises nothing .*so the sums would be exact"):
        statistics(Path(__file__).parents[2] / "configs" / "digits_iid.yaml", out=tmp_path / "figures.yaml", **asked)
    assert not list(tmp_path.iterdir())
