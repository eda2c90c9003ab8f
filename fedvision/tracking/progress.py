"""What is shown while a run runs, on stderr: a live line on a terminal, one plain line a round where there is none."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fedvision.tracking.figures import duration, headline, number


class Progress:
    """Shows rounds, sites and the main metric.  A context manager: leaving it leaves the terminal as it was.

    metric: name of the one that is shown, `evaluation.best`; None = the first that a round reports.
    """

    def __init__(self, metric: str | None = None, quiet: bool = False, stream: TextIO | None = None):
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._metric = metric
        self._quiet = quiet
        self._live: Live | None = None
        self._total = self._first = self._finished = self._round = self._asked = self._sites = 0
        self._figures = ""
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish()

    def start(self, rounds_total: int, first_round: int = 0) -> None:
        """The run begins at `first_round` (0 unless it is resumed) of `rounds_total`."""
        self._total, self._first, self._finished = rounds_total, first_round, 0
        self._began = time.monotonic()
        if self._console.is_terminal and not self._quiet:
            # A thread draws the line four times a second from our counters: counting a site is an addition.
            self._live = Live(
                get_renderable=self._line,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
            )
            self._live.start()

    def round_started(self, number: int, asked: int) -> None:
        """Round `number` asks `asked` sites."""
        self._round, self._asked, self._sites = number, asked, 0

    def site_done(self) -> None:
        """One more of the asked sites is through, with an update or without."""
        self._sites += 1

    def round_finished(self, record: Mapping[str, Any]) -> None:
        """The round of `record` (a line of rounds.jsonl) is counted or skipped."""
        self._finished += 1
        self._figures = self._summary_of(record)
        if self._live is None and not self._quiet:
            width = len(str(self._total))
            text = f"round {record['round'] + 1:>{width}}/{self._total}{self._figures}{_took(record)}{self._left()}"
            self._print(text)

    def message(self, text: str) -> None:
        """Say something that is no figure of a round."""
        if not self._quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        # A file gets whole lines; on a terminal rich must fold them itself, or it loses count of what to draw over.
        self._console.print(text, markup=False, soft_wrap=self._live is None)

    def finish(self) -> None:
        """Take the live line away.  May be called again."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self) -> Text:
        width = 24
        sites = min(1.0, self._sites / self._asked) if self._asked else 0.0
        share = (self._first + self._finished + sites) / self._total if self._total else 0.0
        full = round(min(1.0, share) * width)
        shown = min(self._total, self._first + self._finished + 1)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"round {shown}/{self._total} ")
        line.append("━" * full, style="cyan").append("━" * (width - full), style="bright_black")
        if self._asked:
            line.append(f"  {min(self._sites, self._asked)}/{self._asked} sites")
        return line.append(f"{self._figures}{self._left()}")

    def _summary_of(self, record: Mapping[str, Any]) -> str:
        name, value, where = headline(record.get("evaluation"), self._metric)
        shown = f"  {name} {number(value)} ({where})" if name else ""
        loss = (record.get("train") or {}).get("loss")
        shown += f"  training loss {number(loss)}" if loss is not None else ""
        if "asked" in record and "answered" in record:
            shown += f"  {len(record['answered'])}/{len(record['asked'])} answered"
        troubles = [f"{len(record[kind])} {kind}" for kind in ("declined", "refused", "missing") if record.get(kind)]
        shown += f" ({', '.join(troubles)})" if troubles else ""
        return shown + (f"  {record['status']}" if record.get("status") in ("skipped", "rejected") else "")

    def _left(self) -> str:
        todo = self._total - self._first - self._finished
        if not self._finished or todo <= 0:
            return ""
        return f"  {duration((time.monotonic() - self._began) / self._finished * todo)} left"


def _took(record: Mapping[str, Any]) -> str:
    seconds = (record.get("seconds") or {}).get("total")
    return f"  {duration(seconds)}" if seconds is not None else ""
