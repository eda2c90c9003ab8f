"""The sites behind Flower's Grid, as an Exchange: one message a site and request, replies handed over one at a time."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedvision.errors import EngineError, Malformed
from fedvision.types import EvaluateRequest, Lost, Reply, Request, SiteId
from fedvision.wire import Premises, loss_of, present_of, reply_of, request_records, roll_call

log = logging.getLogger("fedvision.server")

AT_ONCE = 16  # replies that are taken from the Grid together: what the coordinator holds of a cohort
QUICK, SLOW = 0.002, 0.05  # seconds between two looks for replies: while they come, and while none does
NODES_WAIT = 10.0  # seconds without a new node after which the number of nodes is final
REPLY_WAIT = 11 * 3600.0  # seconds; Flower forgets a message after twelve hours, and then trips over its id


def never() -> None:
    """Nothing stops the run from outside."""


class GridExchange:
    """Asks the nodes of `grid`, which between them are `sites`, in the order of their partitions.

    workers: how many sites work at once.  check: called between two looks for replies; what it raises ends the run.
    Raises EngineError where the nodes are not the sites.
    """

    def __init__(self, grid: Grid, sites: Sequence[SiteId], premises: Premises, workers: int, check: Callable[[], None] = never):
        self.grid, self.premises, self.workers, self.check = grid, premises, workers, check
        self._sites = tuple(sites)
        self._busy = 0.0
        self._node = self._call_roll(self._gather())

    def sites(self) -> Sequence[SiteId]:
        """Every site of the partition."""
        return self._sites

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """Push all requests, then hand over the replies as they come.  What Flower reports lost is `Lost`, and so is what cannot be read."""
        messages: dict[SiteId, Message] = {}
        for site, content in request_records(requests, self.premises):
            kind = MessageType.EVALUATE if isinstance(requests[site], EvaluateRequest) else MessageType.TRAIN
            messages[site] = Message(content, self._node[site], kind, group_id=str(requests[site].round))
        waiting, unsent = self._push(messages)
        del messages
        for site in unsent:
            yield Lost(site, requests[site].round, "no reply: Flower did not take the request")
        for site, message in self._replies(waiting):
            yield Lost(site, requests[site].round, "no reply: late") if message is None else self._read(message, site, requests[site].round)

    def clock(self) -> float:
        """The wall's."""
        return time.monotonic()

    def busy(self) -> float:
        """Seconds in `answer`, as the sites say, over the workers."""
        return self._busy / self.workers

    def close(self) -> None:
        """Nothing to let go: the Grid is Flower's."""

    def _read(self, message: Message, site: SiteId, round: int) -> Reply:
        if (loss := loss_of(message)) is not None:
            return Lost(site, round, loss)
        try:
            reply, seconds = reply_of(message.content)
        except Malformed as error:
            log.warning("site %s, round %d: a malformed reply: %s", site, round, error)
            return Lost(site, round, "malformed reply")
        if reply.site != site or message.metadata.src_node_id != self._node[site]:
            log.warning("site %s, round %d: the reply is another site's", site, round)
            return Lost(site, round, "another site's reply")
        self._busy += seconds
        return reply

    def _push(self, messages: Mapping[SiteId, Message]) -> tuple[dict[str, SiteId], list[SiteId]]:
        """Send; the ids of the messages that went out, with their sites, and the sites whose messages did not."""
        sent = {str(id) for id in self.grid.push_messages(list(messages.values())) if id}
        ids = {message.metadata.message_id: site for site, message in messages.items()}
        return {id: site for id, site in ids.items() if id in sent}, [site for id, site in ids.items() if id not in sent]

    def _replies(self, waiting: dict[str, SiteId]) -> Iterator[tuple[SiteId, Message | None]]:
        """Each reply as it comes; None for those that do not."""
        pause, until = QUICK, time.monotonic() + REPLY_WAIT
        while waiting:
            before, ids = len(waiting), list(waiting)
            for start in range(0, len(ids), AT_ONCE):
                self.check()
                replies = list(self.grid.pull_messages(ids[start : start + AT_ONCE]))
                while replies:
                    reply = replies.pop()
                    site = waiting.pop(reply.metadata.reply_to_message_id, None)
                    if site is not None:
                        yield site, reply
                    del reply  # the next one comes before this variable is set again
            if time.monotonic() > until:
                yield from ((site, None) for site in waiting.values())
                return
            pause = QUICK if len(waiting) < before else min(2 * pause, SLOW)
            time.sleep(pause if waiting else 0)

    def _gather(self) -> list[int]:
        """The nodes' ids.  Flower starts the coordinator before the last of them is registered."""
        nodes: list[int] = []
        since = time.monotonic()
        while len(found := list(self.grid.get_node_ids())) != len(self._sites):
            self.check()
            if len(found) != len(nodes):
                nodes, since = found, time.monotonic()
            if time.monotonic() - since > NODES_WAIT:
                raise EngineError(
                    f"Flower has {len(found)} nodes, and the partition has {len(self._sites)} sites: give it as many, "
                    f'for example flwr run . --federation-config "num-supernodes={len(self._sites)} client-resources-num-cpus=1"'
                )
            time.sleep(SLOW)
        return found

    def _call_roll(self, nodes: Sequence[int]) -> dict[SiteId, int]:
        """Which node is which site."""
        messages = {SiteId(str(node)): Message(roll_call(), node, MessageType.QUERY) for node in nodes}
        waiting, unsent = self._push(messages)
        found: dict[SiteId, int] = {}
        why = ["Flower did not take the request"] if unsent else []
        for node, message in self._replies(waiting):
            answer = self._present(message)
            if isinstance(answer, str):
                why.append(answer)
            else:
                found[self._sites[answer]] = int(node)
        if len(found) < len(self._sites):
            missing = next(site for site in self._sites if site not in found)
            raise EngineError(
                f"{len(self._sites) - len(found)} of {len(self._sites)} sites, {missing} among them, are at no node of Flower's "
                f"({why[0] if why else 'two nodes are the same site'}); run.log has what Flower says"
            )
        return found

    def _present(self, message: Message | None) -> int | str:
        """The number of a node's partition, or why there is none."""
        loss = "no reply: late" if message is None else loss_of(message)
        if loss is not None or message is None:
            return str(loss)
        try:
            number = present_of(message.content)
        except Malformed as error:
            return f"malformed reply: {error}"
        return number if 0 <= number < len(self._sites) else f"a node is partition {number} of {len(self._sites)}"
