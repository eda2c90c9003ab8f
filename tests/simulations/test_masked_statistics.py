"""The statistics of a masked run's sites: the same sums, and none of one site's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedvision.data.federation import Federated, open_federated
from fedvision.data.partition import NOBODY
from fedvision.data.statistics import counted, federated_statistics
from fedvision.errors import ConfigError, RoundFailed
from fedvision.experiment import Experiment
from fedvision.schema import validate
from privacy.secure_aggregation import SecureSite
from privacy.secure_aggregation.messages import Masked
from simulations.masked_statistics import masked_over

SITES = 5


def experiment(**blocks: Any) -> Experiment:
    values = {
        "data": {"dataset": "digits"},
        "partition": {"scheme": "dirichlet", "alpha": 0.5, "sites": SITES},
        "federation": {"rounds": 1, "min_replies": 4},
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": 1, "batch_size": 8},
        "evaluation": {"sites": "none", "server": {"validation": 0.0, "test": 0.2}},
        "secure_aggregation": {"enabled": True},
        **blocks,
    }
    return validate(Experiment, values, "test")


def test_under_masks_the_statistics_are_those_of_sums_in_the_clear() -> None:
    clear = federated_statistics(experiment(secure_aggregation={"enabled": False}), 10)
    assert federated_statistics(experiment(), 10, masked_over) == replace(clear, masked=True)


def test_what_a_site_sends_is_not_its_counts_but_numbers_from_the_whole_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Masked] = []
    answer = SecureSite.answer

    def overheard(*parts: Any) -> Any:
        reply = answer(*parts)
        sent.extend([reply] if isinstance(reply, Masked) else [])
        return reply

    monkeypatch.setattr(SecureSite, "answer", overheard)
    data = open_federated(experiment())
    total, sites = masked_over(data, experiment())
    assert sites == SITES == len(sent) and int(total["images"][0]) == len(data.pooled("train"))
    for message in sent:
        numbers = np.frombuffer(message.body, "<u8")
        own = counted(data.site(next(s for s in data.sites if s == message.site)).train, 10)
        assert not np.isin(np.concatenate([own[name].ravel() for name in own]).astype(np.uint64), numbers).any()
        assert 0.3 < np.mean(numbers > 1 << 63) < 0.7, "half of them in the upper half of 64 bits"


def test_a_site_that_holds_nothing_adds_nothing_and_is_not_counted() -> None:
    data = open_federated(experiment())
    left = np.where(data.partition.site_of == 2, NOBODY, data.partition.site_of)
    fewer = Federated(data.dataset, replace(data.partition, site_of=left.astype(np.int32)))
    total, sites = masked_over(fewer, experiment())
    assert sites == SITES - 1 and total["labels"].sum() == len(fewer.pooled("train"))


def test_fewer_sites_than_a_sum_may_be_over_are_refused() -> None:
    data = open_federated(experiment())
    with pytest.raises(RoundFailed, match="site-000 too_strict: threshold 0, minimum cohort 6 leave no room"):
        masked_over(
            data,
            experiment().model_copy(update={"secure_aggregation": experiment().secure_aggregation.model_copy(update={"min_cohort": 6})}),
        )


def test_a_private_runs_statistics_are_refused_because_they_are_exact() -> None:
    private = experiment(
        privacy={"mechanism": "central", "epsilon": 8.0, "delta": 1e-5, "clip": 1.0},
        federation={"rounds": 1, "sampling": "all", "weighting": "uniform"},
        secure_aggregation={"enabled": False},
    )
    with pytest.raises(ConfigError, match=r"privacy.mechanism = central: these sums are exact, also under masks, and what they tell"):
        federated_statistics(private, 10, masked_over)
