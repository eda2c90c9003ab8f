"""All steps that one site makes in one round, by the plain loop or by the run's recipe."""

from clients.algorithms import Fitted
from clients.schedule import rate_at, rates_of_a_round
from clients.training import Correct, batches, train
from clients.workbench import Workbench
from fedvision.data.site import Examples
from fedvision.descent import Optimizer
from fedvision.learning import Training
from fedvision.seeds import stream


def learn(
    bench: Workbench, examples: Examples, names: tuple[str | int, ...], round: int, correct: Correct | None,
    optimizer: Optimizer | None = None, training: Training | None = None,
) -> Fitted:  # fmt: skip
    """All steps of one round on `examples`, drawn by `names`.

    optimizer, training: other than a fresh one and the config's, where what trains is no site of a round.
    """
    e = bench.experiment
    training, rounds = training or e.training, e.federation.rounds
    order = batches(len(examples), training, e.seed, *names, lonely=bench.lonely)
    if bench.recipe is not None:
        steps = list(order)
        rates = rates_of_a_round(training, round, rounds, len(steps))
        optimizer = optimizer or bench.fresh_optimizer(rates[0])
        chance = stream(e.seed, *names, "recipe")
        return bench.recipe.train(bench.model, examples, steps, optimizer, rates, chance, correct)
    rate = rate_at(training, round, 1.0, rounds)
    if optimizer is None:
        optimizer = bench.fresh_optimizer(rate)
    else:
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
    loss, seen, count = train(bench.model, bench.task, examples, order, optimizer, bench.device, training.gradient_clip, correct)
    return Fitted(loss, seen, count, rate * count)
