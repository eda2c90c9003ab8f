"""The Exchange over Flower's Grid, and the ServerApp: on a Grid that runs the real ClientApp in this process."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from clients.app import app as client
from fedvision.data.federation import open_federated
from fedvision.errors import EngineError, RoundFailed
from fedvision.experiment import Experiment, load
from fedvision.types import ClientUpdate, EvaluateRequest, Exchange, Lost, Measured, Reply, SiteId, TrainRequest
from fedvision.wire import Premises, arrays_of
from server import exchange as rules
from server.app import Conductor
from server.exchange import GridExchange
from simulations.flower import premises
from simulations.run import simulate
from simulations.setting import Setting

CONFIG = """
name: tiny
data: {dataset: digits}
partition: {scheme: iid, sites: 3}
federation: {rounds: 2, on_missing: stop}
model: {name: mlp, width: 4}
training: {epochs: null, steps: 1, learning_rate: 0.1, batch_size: 8}
evaluation: {server: {test: 0.2}}
tracking: {mlflow: null, report: false}
"""
NODES = [907, 11, 5000]  # as random as Flower's; node 11 is partition 1
Spoil = Callable[[Message, Message], Message | None]


class InProcessGrid(Grid):
    """Flower's Grid without a network: a message runs the ClientApp when its reply is first looked for.

    spoil: (request, reply) -> the reply that arrives instead, None for none yet.
    """

    def __init__(
        self, nodes: list[int] = NODES, spoil: Spoil = lambda request, reply: reply, takes: Callable[[Message], bool] = lambda m: True
    ):
        self.nodes, self.spoil, self.takes = nodes, spoil, takes
        self.waiting: dict[str, Message] = {}
        self.most_at_once = 0
        self.sent: list[Message] = []

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            if self.takes(message):
                self.waiting[message.metadata.message_id] = message
                ids.append(message.metadata.message_id)
                self.sent.append(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        replies = []
        for id in message_ids:
            request = self.waiting[id]  # KeyError, as Flower's, for an id that is done
            node = request.metadata.dst_node_id
            config = {"partition-id": self.nodes.index(node)}
            context = Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})  # type: ignore[arg-type]
            reply = self.spoil(request, client(request, context))
            if reply is not None:
                del self.waiting[id]
                replies.append(reply)
        self.most_at_once = max(self.most_at_once, len(replies))
        return iter(replies)


@pytest.fixture(autouse=True)
def of_a_run() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    return load(config)


@pytest.fixture
def setting(experiment: Experiment, tmp_path: Path) -> Setting:
    return Setting(experiment, open_federated(experiment), tmp_path / "run" / "sites", print)


@pytest.fixture
def where(setting: Setting) -> Premises:
    setting.states.parent.mkdir()
    return premises(setting)


def weights(experiment: Experiment) -> dict[str, Any]:
    from fedvision.models import build

    return build(experiment, (1, 8, 8), 10).state_dict()


def on(grid: Grid, where: Premises, sites: Iterable[SiteId]) -> GridExchange:
    return GridExchange(grid, list(sites), where, workers=1)


def asked(grid: InProcessGrid, setting: Setting, where: Premises, round: int = 0) -> dict[SiteId, Reply]:
    request = TrainRequest("run", round, 1, weights(setting.experiment))
    return {reply.site: reply for reply in on(grid, where, setting.data.sites).ask({site: request for site in setting.data.sites})}


def for_site(number: int, change: Callable[[Message], Message | None]) -> Spoil:
    """Spoil what one site sends, but for the roll call."""

    def spoil(request: Message, reply: Message) -> Message | None:
        training = request.metadata.message_type == "train"
        return change(reply) if training and request.metadata.dst_node_id == NODES[number] else reply

    return spoil


def test_a_run_over_the_grid_ends_at_the_bytes_of_a_loop(experiment: Experiment, tmp_path: Path) -> None:
    def engine(setting: Setting, conduct: Callable[[Exchange], Any]) -> Any:
        return conduct(on(InProcessGrid(), premises(setting), setting.data.sites))

    _, flower = simulate(experiment, tmp_path / "grid", None, quiet=True, engine=engine)
    _, inline = simulate(experiment, tmp_path / "loop", None, quiet=True)
    assert flower["model_sha256"] == inline["model_sha256"] and flower["metrics"] == inline["metrics"]


def test_each_site_answers_one_message_at_its_own_node(setting: Setting, where: Premises) -> None:
    grid = InProcessGrid()
    replies = asked(grid, setting, where)
    assert sorted(replies) == sorted(setting.data.sites) and all(isinstance(reply, ClientUpdate) for reply in replies.values())
    kinds = Counter((m.metadata.message_type, m.metadata.dst_node_id) for m in grid.sent)
    assert kinds == {(kind, node): 1 for kind in ("query", "train") for node in NODES}
    site = setting.data.sites[1]
    (measured,) = on(grid, where, setting.data.sites).ask({site: EvaluateRequest("run", 0, weights(setting.experiment))})
    assert isinstance(measured, Measured) and grid.sent[-1].metadata.dst_node_id == NODES[1]
    assert int(measured.sums["confusion"].sum()) == len(setting.data.site(site).test)


def test_an_error_that_flower_makes_up_itself_is_the_loss_of_the_site_that_was_asked(setting: Setting, where: Premises) -> None:
    def unavailable(reply: Message) -> Message:
        lost = Message(Error(5, "patient 12 is in /data"), reply_to=_request(reply))
        lost.metadata.__dict__["_src_node_id"] = 1
        return lost

    replies = asked(InProcessGrid(spoil=for_site(1, unavailable)), setting, where)
    assert replies[setting.data.sites[1]] == Lost(setting.data.sites[1], 0, "no reply: node unavailable (5)")
    assert sum(isinstance(reply, ClientUpdate) for reply in replies.values()) == 2


def _request(reply: Message) -> Message:
    """A message to which another reply can be made in place of `reply`."""
    request = Message(RecordDict(), dst_node_id=reply.metadata.src_node_id, message_type=reply.metadata.message_type)
    request.metadata.__dict__["_message_id"] = reply.metadata.reply_to_message_id
    return request


def _with(content: RecordDict) -> Callable[[Message], Message]:
    return lambda reply: Message(content, reply_to=_request(reply))


def _field(**changes: Any) -> Callable[[Message], Message]:
    def change(reply: Message) -> Message:
        reply.content.config_records["reply"].update(changes)
        return reply

    return change


SPOILED: dict[str, tuple[Callable[[Message], Message], str]] = {
    "empty": (_with(RecordDict()), "malformed reply"),
    "of another form": (_with(RecordDict({"reply": ConfigRecord({"kind": 3})})), "malformed reply"),
    "in another site's name": (_field(site="site-2"), "another site's reply"),
    "of negative work": (_field(work=-4), "malformed reply"),
}


@pytest.mark.parametrize(("change", "kind"), SPOILED.values(), ids=SPOILED)
def test_a_reply_that_is(change: Callable[[Message], Message], kind: str, setting: Setting, where: Premises) -> None:
    replies = asked(InProcessGrid(spoil=for_site(0, change)), setting, where)
    assert replies[setting.data.sites[0]] == Lost(setting.data.sites[0], 0, kind)
    assert sum(isinstance(reply, ClientUpdate) for reply in replies.values()) == 2


def test_a_vector_of_another_length_is_refused_by_name_and_the_run_goes_on(experiment: Experiment, tmp_path: Path) -> None:
    def shorter(reply: Message) -> Message:
        reply.content["arrays"] = arrays_of({"vector": np.zeros(3, np.int64)})
        return reply

    def engine(setting: Setting, conduct: Callable[[Exchange], Any]) -> Any:
        return conduct(on(InProcessGrid(spoil=for_site(2, shorter)), premises(setting), setting.data.sites))

    folder, summary = simulate(experiment, tmp_path / "grid", None, quiet=True, engine=engine)
    assert summary["counts"]["refused"] == {"wrong_shape": 2} and len(folder.rounds()[0]["answered"]) == 2


def test_a_request_that_flower_does_not_take_is_a_lost_site(setting: Setting, where: Premises) -> None:
    grid = InProcessGrid(takes=lambda message: message.metadata.dst_node_id != NODES[2] or message.metadata.message_type == "query")
    site = setting.data.sites[2]
    assert asked(grid, setting, where)[site] == Lost(site, 0, "no reply: Flower did not take the request")


def test_a_site_that_never_replies_is_late_in_the_end(setting: Setting, where: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "REPLY_WAIT", 0.2)
    replies = asked(InProcessGrid(spoil=for_site(1, lambda reply: None)), setting, where)
    assert replies[setting.data.sites[1]] == Lost(setting.data.sites[1], 0, "no reply: late")


def test_replies_are_taken_a_few_at_a_time(setting: Setting, where: Premises, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "AT_ONCE", 2)
    grid = InProcessGrid()
    assert len(asked(grid, setting, where)) == 3 and grid.most_at_once == 2


def test_the_sites_say_how_long_they_worked(setting: Setting, where: Premises) -> None:
    exchange = GridExchange(InProcessGrid(spoil=for_site(0, _field(seconds=40.0))), setting.data.sites, where, workers=2)
    list(exchange.ask({setting.data.sites[0]: TrainRequest("run", 0, 1, weights(setting.experiment))}))
    assert exchange.busy() == 20.0


@pytest.mark.parametrize("nodes", [[1, 2], [1, 2, 3, 4]])
def test_another_number_of_nodes_than_sites_is_an_error_that_says_what_to_give(
    nodes: list[int], setting: Setting, where: Premises, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "NODES_WAIT", 0.1)
    with pytest.raises(EngineError, match=f'has {len(nodes)} nodes, and the partition has 3 sites.*"num-supernodes=3'):
        on(InProcessGrid(nodes), where, setting.data.sites)


def test_nodes_that_do_not_answer_the_roll_are_an_error_that_names_a_site(setting: Setting, where: Premises) -> None:
    def dead(request: Message, reply: Message) -> Message:
        return Message(Error(1, "no module"), reply_to=request) if request.metadata.dst_node_id == NODES[1] else reply

    with pytest.raises(EngineError, match=f"1 of 3 sites, {setting.data.sites[1]} among them.*did not load"):
        on(InProcessGrid(spoil=dead), where, setting.data.sites)


def conductor(conduct: Callable[[Exchange], Any], setting: Setting, where: Premises) -> Conductor[Any]:
    return Conductor(conduct, setting.data.sites, where, workers=1)


def ran(job: Conductor[Any], grid: Grid) -> Conductor[Any]:
    job.app()(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    return job


def test_what_is_conducted_comes_back_from_the_server_app(setting: Setting, where: Premises) -> None:
    job = ran(conductor(lambda exchange: list(exchange.sites()), setting, where), InProcessGrid())
    assert job.outcome() == list(setting.data.sites)


def test_what_the_conduct_raises_is_raised_to_the_caller_and_not_into_flower(setting: Setting, where: Premises) -> None:
    def fail(exchange: Exchange) -> None:
        raise RoundFailed("round 3")

    with pytest.raises(RoundFailed, match="round 3"):
        ran(conductor(fail, setting, where), InProcessGrid()).outcome()


def test_a_halt_ends_rounds_that_wait_for_replies(setting: Setting, where: Premises) -> None:
    job = conductor(lambda exchange: asked_of(exchange), setting, where)

    def asked_of(exchange: Exchange) -> list[Reply]:
        return list(exchange.ask({setting.data.sites[0]: TrainRequest("run", 0, 1, weights(setting.experiment))}))

    def interrupted(reply: Message) -> None:
        threading.Thread(target=job.halt, args=[KeyboardInterrupt()]).start()  # as the main thread does, while this one waits

    with pytest.raises(KeyboardInterrupt):
        ran(job, InProcessGrid(spoil=for_site(0, interrupted))).outcome()


def test_a_runtime_that_ends_before_the_server_app_begins_is_said(setting: Setting, where: Premises) -> None:
    began: list[Exchange] = []
    job = conductor(began.append, setting, where)
    job.halt(EngineError("Flower's runtime stopped: no memory"))
    with pytest.raises(EngineError, match="no memory"):
        ran(job, InProcessGrid()).outcome()
    assert not began
    with pytest.raises(EngineError, match=r"before its ServerApp was called"):
        conductor(began.append, setting, where).outcome()


def test_a_site_that_fails_is_declined_with_its_code_and_the_round_fails_in_our_words(experiment: Experiment, tmp_path: Path) -> None:
    few = experiment.model_copy(update={"federation": experiment.federation.model_copy(update={"max_examples": 1})})

    def engine(setting: Setting, conduct: Callable[[Exchange], Any]) -> Any:
        job: Conductor[Any] = Conductor(conduct, setting.data.sites, premises(setting), 1)
        return ran(job, InProcessGrid()).outcome()

    with pytest.raises(RoundFailed, match=r"0 sites' updates were counted.*too_many_examples"):
        simulate(few, tmp_path / "grid", None, quiet=True, engine=engine)
