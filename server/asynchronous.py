"""Asynchronous rounds on the simulated clock, for FedBuff: a number of sites train at any time, each from the model that
there was when it began, and whoever comes back is followed by another site at once.

A round is what passes between two steps of the model.  In it, `buffer` updates arrive, and as many sites begin, one at the
last step and one at each arrival but the last, which makes the next step.  All of them are sent the same model, so they are
asked together, and work side by side on any engine; when each arrives is told by the simulated clock alone.
"""

from collections.abc import Callable, Mapping, Sequence

from fedvision.algorithms import FedBuff
from fedvision.compatible import too_busy
from fedvision.errors import ConfigError, RoundFailed
from fedvision.experiment import Experiment
from fedvision.seeds import stream
from fedvision.types import Exchange, SiteId, TrainRequest
from server.arrivals import Arrivals, Buffered
from server.attempt import Attempt


def collect(
    attempt: Attempt,
    number: int,
    state: Buffered,
    experiment: Experiment,
    exchange: Exchange,
    requests: Callable[[int, Sequence[SiteId]], Mapping[SiteId, TrainRequest]],
    asked: Callable[[int, int], None],
    replied: Callable[[], None],
) -> int:
    """One round into `attempt`, whose sink is an `Arrivals`; how many times it asked.  RoundFailed where too few arrive.

    Whoever is asked and does not reply is followed by another site, up to federation.max_attempts times.
    """
    assert isinstance(experiment.strategy, FedBuff)
    buffer, concurrency = experiment.strategy.buffer, experiment.strategy.concurrency
    sites, arrivals = exchange.sites(), attempt.sink
    assert isinstance(arrivals, Arrivals)
    if concurrency + buffer - 1 > len(sites):
        raise ConfigError(too_busy(experiment.strategy, len(sites)))
    order: list[SiteId] = []
    tried, wanted, count = set(state.flight), concurrency + buffer - 1 - len(state.flight), 0
    while len(order) < wanted and count < experiment.federation.max_attempts:
        count += 1
        free = [site for site in sites if site not in tried]
        drawn = stream(experiment.seed, "fedbuff", "round", number, "attempt", count).permutation(len(free))[: wanted - len(order)]
        chosen = [free[i] for i in drawn]
        tried.update(chosen)
        asked(number, len(chosen))
        attempt.collect(exchange, requests(count, chosen), arrivals.layout, replied)
        order += [site for site in chosen if site in arrivals.began]
    attempt.answered = arrivals.pass_time(state, number, order, buffer, concurrency - len(state.flight))
    if len(attempt.answered) < buffer:
        raise RoundFailed(
            f"round {number}: {len(attempt.answered)} updates arrived, and strategy.buffer is {buffer}; nobody else is training, after "
            f"attempt {count} of at most {experiment.federation.max_attempts}"
        )
    attempt.simulated = arrivals.now - float(state.clock["now"])
    return count
