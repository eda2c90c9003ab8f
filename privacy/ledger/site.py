"""A site's chain of one run: what it has promised, each charge before its steps, and how far it got.

plan         the first entry: the terms, whose key signs, and the head of the site's private account, so that no one who
             sees this chain sees what the site spent elsewhere
charge       before any step: the request that it is for, the event, what has been spent with it, the coordinator's witness
settle       the steps that a charge paid for have been taken, and the reply is kept
checkpoint   the PLD figure of what was spent, at counts that the plan registered
end          the run is over
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvision.errors import BudgetExhausted, LedgerDamaged
from privacy.ledger.chain import FIRST, Chain, Entry
from privacy.ledger.keys import begun_by_another, not_yours, public
from privacy.ledger.terms import Terms, made_with

if TYPE_CHECKING:
    from privacy.budget import RunAccount

FILE = "ledger.jsonl"


def site_ledger_path(states: Path, site: str) -> Path:
    """Where a site's chain is, below the folder of the sites' states."""
    return states / quote(site, safe="") / FILE


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


class SiteLedger:
    """The chain of `site` in `run`, and what it adds up to.

    account: head of the site's private account chain, None where it keeps none.  limit: what that states of itself here.
    """

    def __init__(
        self,
        states: Path,
        key: Ed25519PrivateKey,
        run: str,
        site: str,
        terms: Terms,
        account: str | None = None,
        limit: Mapping[str, Any] | None = None,
    ):
        self.run, self.site, self.terms, self.account, self.limit = run, site, terms, account, limit
        self.rounds, self.rdp = 0, np.zeros(len(terms.orders))
        self._key = key
        self._charges: dict[str, int] = {}  # entry of the newest charge for a request
        self._paid: set[int] = set()  # rounds with a charge
        self._settled: set[int] = set()  # entries
        self._pld: dict[int, float] = {}
        self._begun: tuple[Any, Any] | None = None  # run and site of the first entry
        self._ended = False
        self.chain = Chain(site_ledger_path(states, site), key, self._take)

    @classmethod
    def of(cls, states: Path, key: Ed25519PrivateKey, site: str, account: "RunAccount") -> "SiteLedger":
        """The chain of the run that `account` pays for."""
        limit = account.stated()
        return cls(states, key, account.run, site, account.terms, account.head, None if limit is None else limit.as_body())

    def _take(self, entry: Entry) -> None:
        body = entry.body
        kind = body.get("kind")
        if kind == "plan":
            self._begun = (body.get("run"), body.get("site"))
            self._pld = {int(mark): figure for mark, figure in body.get("pld", [])}
        elif kind == "charge":
            self.rounds, self.rdp = body["rounds"], np.asarray(body["rdp"])
            self._charges[body["request"]] = entry.number
            self._paid.add(body["round"])
        elif kind == "settle":
            self._settled.add(body["charge"])
        self._ended = kind == "end"

    # ------------------------------------------------------------------------------------------------------ joining

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The chain, all of it taken, while no one else can append.  ConfigError where another user's key began it."""
        try:
            with self.chain.held():
                yield
        except LedgerDamaged:
            if begun_by_another(self.chain.path, self._key):
                raise not_yours(self.chain.path) from None
            raise

    def join(self, sync: bool = True, pays: bool = True) -> None:
        """Write the first entry, and where the plan is paid at joining and the site `pays`, its charge, unless they are there.
        LedgerDamaged where the file is another run's or site's; ConfigError where another user began it."""
        with self._held():
            if self._begun is None:
                self.chain.append(
                    {
                        "kind": "plan", "run": self.run, "site": self.site, "key": public(self._key), "account": self.account,
                        "limit": self.limit, "time": now(), "nonce": os.urandom(16).hex(), **self.terms.registered(), **made_with(),
                    },
                    sync and not self.terms.whole_plan,
                )  # fmt: skip
            self._check_own()
            if self.terms.whole_plan and pays and not self._charges:
                self._charge("", None, None, "", FIRST, self.terms.event.clip, self.terms.rounds, sync)

    def _check_own(self) -> None:
        if self._begun != (self.run, self.site):
            raise LedgerDamaged(f"{self.chain.path} is the ledger of {self._begun}, and this is {(self.run, self.site)}: put back its own")

    # ---------------------------------------------------------------------------------------------------- spending

    def charge(self, request: str, round: int, attempt: int, model: str, witness: str, clip: float) -> None:
        """Charge one request, on disk when this returns.  BudgetExhausted, and nothing charged, where the plan does not hold it.

        request, model: their hashes; clip: the bound of this round's contributions.
        """
        if self.terms.whole_plan:
            self.join()
            return
        with self._held():
            self.join()
            if self.terms.repeatable and request in self._charges:
                return
            if self._ended:
                raise BudgetExhausted(f"round {round} is after the end that the ledger of site {self.site} has: begin another run")
            new = 0 if self.terms.once_a_round and round in self._paid else 1
            if self.rounds + new > self.terms.rounds:
                raise BudgetExhausted(
                    f"round {round} is not in the plan: all its {self.terms.rounds} rounds are in the ledger of site {self.site}; stop here, or plan more"
                )
            self._charge(request, round, attempt, model, witness, clip, new, True)

    def _charge(
        self, request: str, round: int | None, attempt: int | None, model: str, witness: str, clip: float, new: int, sync: bool
    ) -> Entry:
        summed = self.rdp + new * self.terms.rho
        body = {
            "kind": "charge", "run": self.run, "round": round, "attempt": attempt, "request": request, "model": model, "witness": witness,
            **self.terms.event.as_body(), "clip": clip, "new": new, "rounds": self.rounds + new, "rdp": summed.tolist(),
            "epsilon": self.terms.rdp(summed), "config": self.terms.config, **made_with(), "time": now(),
        }  # fmt: skip
        return self.chain.append(body, sync)

    def gone_back(self, seen: str) -> str:
        """Why this chain is not the one whose entry the coordinator has `seen` ("NUMBER HASH"); "" where it is, or none was seen."""
        if not seen:
            return ""
        number, _, hash = seen.partition(" ")
        with self._held():
            there = number.isdecimal() and int(number) < self.chain.count
            if there and hashlib.sha256(self.chain.line(int(number))).hexdigest() == hash:
                return ""
        return (
            f"the coordinator has counted entry {number[:20]} of this site's ledger, and it is not there: an older copy was put back; nothing more "
            "is spent before the newest one is in its place"
        )

    def require_paid(self, rounds: int) -> None:
        """LedgerDamaged where fewer `rounds` are in the site's account than in this chain, whose every charge follows one there."""
        with self._held():
            if not self.terms.whole_plan and rounds < self.rounds:
                raise LedgerDamaged(
                    f"{self.chain.path} has {self.rounds} rounds charged, and the account that pays for them {rounds}: an older account was put back"
                )

    def settle(self, request: str) -> None:
        """The steps of this request's charge have been taken and the reply is kept; at a registered count, the PLD figure too.
        Not synced: a charge that a power cut leaves unsettled is spent all the same."""
        if self.terms.whole_plan:
            return
        with self._held():
            number = self._charges[request]
            if number in self._settled:
                return
            self.chain.append({"kind": "settle", "charge": number}, sync=False)
            figure = self._pld.get(self.rounds)
            if figure is not None and self.rounds < self.terms.rounds:
                self.chain.append({"kind": "checkpoint", "rounds": self.rounds, "pld": figure}, sync=False)

    def has(self, request: str) -> bool:
        """Whether there is a charge for a request."""
        with self._held():
            return request in self._charges

    def entry(self, request: str) -> bytes:
        """The line that charges a request, as the coordinator gets it beside the reply; none where the whole plan is paid at once.
        LedgerDamaged where it was never charged."""
        if self.terms.whole_plan:
            return b""
        with self._held():
            number = self._charges.get(request)
            if number is None:
                raise LedgerDamaged(
                    f"{self.chain.path} has no charge for a reply that site {self.site} has kept: an older file was put back"
                )
            return self.chain.line(number)

    def end(self, witness: str) -> tuple[int, str]:
        """Write that the run is over, with both figures of what was spent, unless that is the last word already; number and hash
        of the chain's last entry.  About a second, for the PLD figure."""
        with self._held():
            self.join(pays=False)
            if not self._ended:
                figures = {"rounds": self.rounds, "epsilon": self.terms.rdp(self.rdp), "pld": self.terms.pld(self.rounds)}
                self.chain.append({"kind": "end", "witness": witness, **figures})
            return self.chain.count - 1, self.chain.head
