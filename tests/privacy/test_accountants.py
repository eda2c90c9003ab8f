"""ε against reference vectors, between accountants, and for every relation."""

import csv
from pathlib import Path

import numpy as np
import pytest

from fedvision.errors import ConfigError
from privacy.accountants import Phase, epsilon, merged

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def _rows(name: str) -> list[dict[str, str]]:
    path = DATA / name
    return list(csv.DictReader(path.open())) if path.exists() else []


def _schedule(text: str) -> list[Phase]:
    return [Phase(float(s), float(q), int(t)) for s, q, t in (phase.split(";") for phase in text.split("|"))]


CASES = [
    (f"{r['sigma']}-{r['q']}-{r['steps']}", [Phase(float(r["sigma"]), float(r["q"]), int(r["steps"]))], r) for r in _rows("dp_vectors.csv")
]
CASES += [(r["case"], _schedule(r["schedule(sigma;q;steps)"]), r) for r in _rows("dp_vectors_composed.csv")]


@pytest.mark.skipif(not CASES, reason="the reference vectors (../shared/data/dp_vectors*.csv) are not here")
@pytest.mark.parametrize(("name", "phases", "row"), CASES, ids=[case[0] for case in CASES])
def test_pld_is_within_a_percent_of_the_reference_and_never_below_it(name: str, phases: list[Phase], row: dict[str, str]) -> None:
    reference = float(row["eps_pld_google"])
    assert reference * (1 - 1e-5) <= epsilon(phases, float(row["delta"])) <= reference * 1.01


@pytest.mark.skipif(not CASES, reason="the reference vectors (../shared/data/dp_vectors*.csv) are not here")
@pytest.mark.parametrize(("name", "phases", "row"), CASES, ids=[case[0] for case in CASES])
def test_rdp_agrees_with_two_implementations_and_lies_above_pld(name: str, phases: list[Phase], row: dict[str, str]) -> None:
    found = epsilon(phases, float(row["delta"]), "rdp")
    assert found == pytest.approx(float(row["eps_rdp_google"]), abs=1e-3)
    assert found == pytest.approx(float(row["eps_rdp_opacus"]), abs=0.03)
    assert found >= float(row["eps_pld_google"])


def test_prv_lies_between_pld_and_pld_plus_its_error() -> None:
    for phase in (Phase(1.0, 0.01, 1000), Phase(3.0, 0.08192, 875)):
        exact, found = epsilon([phase], 1e-5), epsilon([phase], 1e-5, "prv")
        assert exact <= found <= exact + 0.02


def test_replacing_one_costs_more_than_adding_one_and_blanking_one_costs_the_same() -> None:
    sampled, full = [Phase(1.0, 0.01, 1000)], [Phase(4.0, 1.0, 50)]
    assert [round(epsilon(sampled, 1e-5, relation=r), 3) for r in ("add_remove", "zero_out", "replace_one")] == [1.828, 1.828, 2.843]
    assert [round(epsilon(full, 1e-5, relation=r), 2) for r in ("add_remove", "zero_out", "replace_one")] == [8.60, 8.60, 20.68]


def test_rdp_of_a_replaced_unit_is_that_of_half_the_noise_and_not_that_of_an_added_unit() -> None:
    replaced = epsilon([Phase(4.0, 1.0, 50)], 1e-5, "rdp", "replace_one")
    assert replaced == pytest.approx(epsilon([Phase(2.0, 1.0, 50)], 1e-5, "rdp"))
    assert replaced > epsilon([Phase(4.0, 1.0, 50)], 1e-5, "pld", "replace_one")


@pytest.mark.parametrize(("accountant", "relation"), [("rdp", "replace_one"), ("prv", "replace_one"), ("prv", "zero_out")])
def test_an_accountant_that_lacks_a_relation_refuses_it_and_names_one_that_has_it(accountant: str, relation: str) -> None:
    with pytest.raises(ConfigError, match=f"{accountant} does not know relation {relation}.*pld"):
        epsilon([Phase(1.0, 0.1, 10)], 1e-5, accountant, relation)


def test_gdp_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="allowed are pld, rdp, prv"):
        epsilon([Phase(1.0, 0.1, 10)], 1e-5, "gdp")


def test_splitting_a_phase_changes_nothing_and_nothing_costs_nothing() -> None:
    assert epsilon([Phase(1.0, 0.02, 20)] * 3, 1e-5) == epsilon([Phase(1.0, 0.02, 60)], 1e-5)
    assert merged([Phase(1.0, 0.02, 20), Phase(2.0, 1.0, 1), Phase(1.0, 0.02, 5)]) == [Phase(1.0, 0.02, 25), Phase(2.0, 1.0, 1)]
    assert epsilon([], 1e-5) == 0.0


def test_a_plan_with_hardly_any_noise_is_answered_in_seconds() -> None:
    assert 100 < epsilon([Phase(0.1, 0.1, 100)], 1e-5) < 1e5


def test_of_very_many_steps_the_figure_is_that_of_the_central_limit_whose_spread_is_then_small() -> None:
    sigma, rate, steps = 4.0, 0.9, 10**7
    x = np.linspace(-40, 40, 200_001)
    off, on = (np.exp(-((x - centre) ** 2) / (2 * sigma**2)) for centre in (0.0, 1.0))
    drawn = (1 - rate) * off + rate * on
    loss, share = np.log(drawn / off), drawn / drawn.sum()
    mean = float((share * loss).sum())
    spread = float((share * (loss - mean) ** 2).sum()) ** 0.5
    assert epsilon([Phase(sigma, rate, steps)], 1e-6) == pytest.approx(steps * mean + 4.75 * steps**0.5 * spread, rel=0.01)


def test_the_least_noise_in_very_many_steps_has_a_figure_too() -> None:
    assert epsilon([Phase(0.01, 0.9, 10**6)], 1e-6) == pytest.approx(0.9 * 10**6 * 5000, rel=0.01)  # E log(P/Q) is near q / 2σ²


def test_prv_refuses_at_once_what_would_take_it_minutes() -> None:
    with pytest.raises(ConfigError, match=r"accountant prv would need 1\.1e\+11 grid points for 1,000,000 steps.*use accountant pld"):
        epsilon([Phase(1.0, 0.5, 10**6)], 1e-6, "prv")


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "said"),
    [(0.0, 0.1, 1, "noise multiplier 0"), (-1.0, 0.1, 1, "noise multiplier -1"), (float("nan"), 0.1, 1, "noise multiplier nan"),
     (1.0, 0.0, 1, "sampling rate 0"), (1.0, 1.01, 1, "sampling rate 1.01"), (1.0, float("nan"), 1, "sampling rate nan"),
     (1.0, 0.1, 0, "steps 0"), (1.0, 0.1, -3, "steps -3")],
)  # fmt: skip
def test_a_phase_out_of_range_is_refused_with_its_value_and_the_limit(sigma: float, rate: float, steps: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Phase(sigma, rate, steps)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan"), 2.0])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon([Phase(1.0, 0.1, 10)], delta)
