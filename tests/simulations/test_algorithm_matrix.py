"""Each algorithm with each way of taking part on each engine: the same bytes, or a refusal that says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matrix
import pytest
from flower_runs import FlowerRuns

from fedvision.algorithms import ALGORITHMS
from fedvision.errors import ConfigError

REFUSED = {(name, way) for name in ("afl", "fedbuff") for way in ("fixed", "poisson")}
ALLOWED = [(name, way) for name in ALGORITHMS if name != "brought" for way in matrix.PARTICIPATION if (name, way) not in REFUSED]
INLINE = {"name": "inline"}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What each allowed pair ends at in a loop."""
    folder = tmp_path_factory.mktemp("inline")
    return {pair: matrix.ended(matrix.experiment(*pair, INLINE), folder / "-".join(pair)) for pair in ALLOWED}


@pytest.mark.parametrize("pair", sorted(REFUSED), ids="-".join)
def test_a_pair_that_cannot_be_is_refused_by_both_names(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"strategy.name = {pair[0]} and federation.sampling = {pair[1]} exclude each other"):
        matrix.experiment(*pair, INLINE)


def test_every_allowed_pair_trains_in_a_loop_and_loses_replies_on_its_way(loops: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert set(loops) == set(ALLOWED)
    for pair, end in loops.items():
        assert len(end["who"]) == 2 and all(len(answered) >= 3 and not declined and not refused for answered, _, declined, refused, _ in end["who"]), pair  # fmt: skip
        assert 0 < end["metrics"]["loss"] < 20, pair
    assert any(missing for end in loops.values() for _, missing, *_ in end["who"])
    same: dict[str, list[str]] = {}
    for pair in ALLOWED:
        same.setdefault(loops[pair]["sha"], []).append(" ".join(pair))
    shared = [names for names in same.values() if len({name.split()[0] for name in names}) > 1]
    assert shared == [[f"fedavg {way}", f"ditto {way}"] for way in matrix.PARTICIPATION], "ditto's shared model is fedavg's"


@pytest.mark.ray
def test_every_allowed_pair_ends_at_the_same_bytes_on_ray(a_ray: Any, tmp_path: Path, loops: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Two workers that are started once, and set up anew for each run."""
    import secrets

    from simulations.ray_cluster import joined
    from simulations.ray_crew import Crew
    from simulations.ray_exchange import OnRay, _here, _write_probe
    from simulations.ray_worker import Job

    block = {"name": "ray", "workers": 2}
    with joined(matrix.experiment("fedavg", "all", block).engine) as cluster:

        def on_shared(setting: Any, conduct: Callable[..., Any]) -> Any:
            job = Job(setting.experiment, setting.data.partition, setting.states.resolve(), secrets.token_hex(), _here())
            _write_probe(job)
            return conduct(OnRay(setting.data, Crew(cluster, setting, job)))

        ends = {pair: matrix.ended(matrix.experiment(*pair, block), tmp_path / "-".join(pair), on_shared) for pair in ALLOWED}
    assert ends == loops


@pytest.mark.flower
def test_every_allowed_pair_ends_at_the_same_bytes_on_flower(
    on_flower: FlowerRuns, tmp_path: Path, loops: dict[tuple[str, str], dict[str, Any]]
) -> None:
    block = {"name": "flower", "workers": 1}
    ends = {pair: matrix.end(tmp_path / "-".join(pair), on_flower.run(matrix.experiment(*pair, block), tmp_path / "-".join(pair))) for pair in ALLOWED}  # fmt: skip
    assert ends == loops
