"""The ClientApp: Flower's way to `answer`.  Nothing of a failure leaves a site but its `Declined`."""

import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.answer import answer_for
from clients.workbench import Workbench
from fedvision.brought import refuse_from_outside
from fedvision.data.federation import Federated, open_federated
from fedvision.errors import FedvisionError
from fedvision.experiment import Experiment
from fedvision.types import Declined, Reply, SiteId
from fedvision.wire import premises_key, present_record, reply_record, request_of

log = logging.getLogger("fedvision.site")
PARTITION = "partition-id"  # Flower's name for a simulated node's number

app = ClientApp()


@dataclass
class Worker:
    """What a process keeps for its life: the data, and the workbench at which it serves one site after the other."""

    data: Federated
    bench: Workbench


@lru_cache(maxsize=1)  # a process serves one run; a worker of Flower's lives on between messages
def worker(experiment: str, partition: str, states: str) -> Worker:
    """The worker of a run."""
    wanted = Experiment.model_validate_json(experiment)
    refuse_from_outside(wanted, experiment, Path(states))
    data = open_federated(wanted, Path(partition))
    return Worker(data, Workbench.set_up(wanted, data.shape, data.classes, len(data.sites), Path(states)))


@app.query()
def present(message: Message, context: Context) -> Message:
    """Which partition this node is; -1 where Flower did not say."""
    return Message(present_record(_number(context)), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """An update, or why there is none."""
    return _reply(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """What the site measures of the model, or why it does not."""
    return _reply(message, context)


def _reply(message: Message, context: Context) -> Message:
    began = time.perf_counter()
    try:
        reply = _answer(message, context)
    except Exception as error:  # the boundary of a site: Flower would send the exception's text to the coordinator
        log.exception("a request could not be answered")
        reply = _declined(message, error)
    return Message(reply_record(reply, time.perf_counter() - began), reply_to=message)


def _answer(message: Message, context: Context) -> Reply:
    mine = worker(*premises_key(message.content))
    asked, request = request_of(message.content)
    number = _number(context)
    if not 0 <= number < len(mine.data.sites):
        return Declined(asked, request.round, "unknown_site", f"this node is partition {number}, and there are {len(mine.data.sites)}")
    site = mine.data.sites[number]
    if site != asked:
        return Declined(site, request.round, "not_me", "the request is for another site than this node's")
    return answer_for(request, site, mine.data, mine.bench)


def _declined(message: Message, error: Exception) -> Declined:
    """Which error, and where: a failure before the site could be asked.  Its words may hold a path or a patient's name."""
    fields: Mapping[str, object] = message.content.config_records.get("request", {}) if message.has_content() else {}
    site, round = SiteId(str(fields.get("site", ""))), fields.get("round")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    code = "cannot_open" if isinstance(error, FedvisionError) else "error"
    return Declined(
        site, round if isinstance(round, int) else -1, code, f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
    )


def _number(context: Context) -> int:
    number = context.node_config.get(PARTITION, -1)
    return number if isinstance(number, int) else -1
