"""The inline exchange: a loop over the sites in this process."""

import time
from collections.abc import Iterator, Mapping, Sequence

from clients.answer import answer_for
from clients.workbench import Workbench
from fedvision.data.federation import Federated
from fedvision.types import Reply, Request, SiteId


class Inline:
    """One worker, one site after the other.  straight: whether the caller adds each update up before it asks for the next."""

    def __init__(self, data: Federated, bench: Workbench, straight: bool = False):
        self.data, self.bench = data, bench
        self.bench.straight = straight
        self._busy = 0.0

    def sites(self) -> Sequence[SiteId]:
        """Every site of the partition."""
        return self.data.sites

    def ask(self, requests: Mapping[SiteId, Request]) -> Iterator[Reply]:
        """Each site's answer, when it is asked for."""
        for site, request in requests.items():
            began = time.perf_counter()
            reply = answer_for(request, site, self.data, self.bench)
            self._busy += time.perf_counter() - began
            yield reply

    def clock(self) -> float:
        """The wall's."""
        return time.monotonic()

    def busy(self) -> float:
        """Seconds in `answer`."""
        return self._busy

    def close(self) -> None:
        """Nothing to let go."""
