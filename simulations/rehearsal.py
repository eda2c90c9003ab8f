"""A private run's ledgers without its training: what benchmarks and tests charge, at any size, by the code that runs use."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from fedvision.experiment import Experiment
from fedvision.schema import validate
from fedvision.tracking.folder import RunFolder
from fedvision.types import SiteId, TrainRequest
from privacy.account import request_hash, state_hash
from simulations.ledgers import Ledgers, found_ledgers

DP = {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "delta": 1e-4, "sampling_rate": 0.1, "divisor": 20.0}


def planned(sites: int, rounds: int, pld_every: int = 100, privacy: Mapping[str, Any] = DP) -> Experiment:
    """An experiment that promises something; nothing of it is trained."""
    training = {"steps": 1} if privacy["mechanism"] == "dp_sgd" else {"batch_size": 16}
    federation = {"rounds": rounds} | ({"sampling": "poisson", "rate": 0.5} if privacy.get("amplified") else {})
    values = {
        "data": {"dataset": "digits"}, "partition": {"scheme": "iid", "sites": sites}, "federation": federation, "training": training,
        "evaluation": {"server": {"test": 0.2}}, "tracking": {"mlflow": None, "report": False}, "privacy": dict(privacy),
        "ledger": {"pld_every": pld_every},
    }  # fmt: skip
    return validate(Experiment, values, "rehearsal")


def begin(experiment: Experiment, out: Path, name: str = "site-{:03d}") -> Ledgers:
    """A run folder at `out` and its ledgers, founded."""
    folder = RunFolder.create(experiment, "simulate", out)
    sites = [SiteId(name.format(number)) for number in range(experiment.partition.sites or 0)]
    ledgers = found_ledgers(folder, folder.path / "sites", experiment, sites)
    assert ledgers is not None
    return ledgers


def play(ledgers: Ledgers, rounds: range, lost: Collection[SiteId] = ()) -> None:
    """`rounds` as they are recorded when every site trains; the replies of the sites that are `lost` never arrive."""
    opened = {site: ledgers.of(site) for site in ledgers.sites}
    for number in rounds:
        request = asked(ledgers, number)
        witness = ledgers.coordinator.request(request, ledgers.sites)
        of, model = request_hash(request), state_hash(request.model)
        charges = {}
        for site, ledger in opened.items():
            ledger.charge(of, number, 1, model, witness, ledgers.coordinator.terms.event.clip)
            ledger.settle(of)
            if site not in lost:
                sent = TrainRequest(request.run, number, 1, request.model, witness=witness)
                charges[str(site)] = ledgers.coordinator.checked(site, ledger.entry(of), sent)
        ledgers.coordinator.receive(number, 1, charges)


def asked(ledgers: Ledgers, number: int) -> TrainRequest:
    """The request of a round."""
    return TrainRequest(ledgers.coordinator.run, number, 1, {"weight": torch.tensor([float(number)])})
