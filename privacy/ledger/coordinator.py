"""The coordinator's chain of a run: each request before it is sent, and each site's charge as it was received.

plan       the first entry: the terms, the sites, whose key signs
joined     the sites' heads when they had joined
request    a request before it is first sent, and the Merkle root that it carries: of all sites' heads as counted so far
           and of this chain's
receipts   countersignatures: the charges that came with the replies of one attempt, and the root after them
end        the run is over, and the sites' last heads
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedvision.errors import ConfigError, LedgerDamaged, RunFolderError, UpdateRefused
from fedvision.types import TrainRequest
from privacy.account import request_hash, state_hash
from privacy.ledger.chain import Broken, Chain, Entry, parsed
from privacy.ledger.keys import Roster, begun_by_another, not_yours, public
from privacy.ledger.merkle import Heads
from privacy.ledger.site import FILE, now
from privacy.ledger.terms import Terms, made_with


@dataclass(frozen=True)
class _Sent:
    """What a request was when it was first sent."""

    request: str
    witness: str


class CoordinatorLedger:
    """The chain of the coordinator of `run`; the sites' keys come from `roster`."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, run: str, roster: Roster, terms: Terms):
        self.run, self.roster, self.terms = run, roster, terms
        self.heads = Heads()
        self._key = key
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._received: dict[tuple[int, int], dict[str, list[Any]]] = {}
        self._begun: Mapping[str, Any] | None = None
        self._joined = False
        self.ended = False
        self.chain = Chain(folder / FILE, key, self._take)

    def _take(self, entry: Entry) -> None:
        body = entry.body
        kind = body.get("kind")
        if kind == "plan":
            self._begun = body
        elif kind == "request":
            self._sent[body["round"], body["attempt"]] = _Sent(body["request"], body["witness"])
        elif kind in ("joined", "receipts", "end"):
            for site, number, hash in body["heads"]:
                self.heads.put(site, number, hash)
            if kind == "receipts":
                told = self._received.setdefault((body["round"], body["attempt"]), {})
                told |= {site: [number, hash] for site, number, hash in body["heads"]}
            self._joined = True
        self.ended = kind == "end"

    def found(self, heads: Mapping[str, tuple[int, str]]) -> None:
        """Begin the chain with the heads of the sites that have joined; one that was begun is gone on with."""
        if begun_by_another(self.chain.path, self._key):
            raise not_yours(self.chain.path)
        with self.chain.held():
            if self._begun is None:
                self.chain.append(
                    {
                        "kind": "plan", "run": self.run, "key": public(self._key), "sites": sorted(self.roster.sites), "time": now(),
                        "nonce": os.urandom(16).hex(), **self.terms.registered(), **made_with(),
                    },
                    sync=False,
                )  # fmt: skip
            elif self._begun["run"] != self.run:
                raise LedgerDamaged(f"{self.chain.path} is the ledger of run {self._begun['run']}: put back this run's own")
            elif self._begun["config"] != self.terms.config:  # each charge says its config, and would not be of this plan
                raise ConfigError(
                    f"{self.chain.path} was begun under another config, or by a version of fedvision whose configs have other keys: go on with that "
                    "version, or begin another run"
                )
            if not self._joined:
                self.chain.append({"kind": "joined", **self._counted(heads)})

    @property
    def asked(self) -> bool:
        """Whether a request is in the chain."""
        return bool(self._sent)

    def _counted(self, heads: Mapping[str, tuple[int, str]]) -> dict[str, Any]:
        """Heads to be counted now, and the root with them."""
        return {"heads": [[site, *heads[site]] for site in sorted(heads)], "root": self.heads.root_with(heads)}

    def witness(self) -> str:
        """The root over what is counted so far, and over this chain."""
        return self.heads.witness(self.chain.count - 1, self.chain.head)

    def seen(self, site: str) -> str:
        """The newest entry of a site's chain that was counted, as a request tells the site; "" where none was."""
        number, hash = self.heads.newest.get(site, (-1, ""))
        return f"{number} {hash}" if hash else ""

    def request(self, request: TrainRequest, sites: Sequence[str]) -> str:
        """The witness that this request carries; the request is on disk when this returns.  One that was sent before has the
        witness of then; RunFolderError where it would now be another one."""
        found = request_hash(request)
        with self.chain.held():
            sent = self._sent.get((request.round, request.attempt))
            if sent is None and self.ended:
                raise RunFolderError(f"round {request.round}: the run is over in {self.chain.path}, and asks no more; begin another run")
            if sent is None:
                told = {} if self.terms.whole_plan else {"sites": sorted(sites)}  # nothing here may tell who was drawn
                body = {"round": request.round, "attempt": request.attempt, "request": found, "model": state_hash(request.model), **told}
                self.chain.append({"kind": "request", **body, "witness": self.witness()})
                sent = self._sent[request.round, request.attempt]
        if sent.request != found:
            raise RunFolderError(
                f"round {request.round}, attempt {request.attempt}: its request was sent with another model than this process has for it, and sites "
                "would pay twice; resume with the checkpoints, and on the kind of machine, that the run had"
            )
        return sent.witness

    def checked(self, site: str, line: bytes, request: TrainRequest) -> tuple[int, str]:
        """Number and hash of the charge that came beside a reply.  UpdateRefused where it is no charge of the site's for this
        request."""
        if site not in self._keys:
            self._keys[site] = self.roster.key(site)
        try:
            number, prev = _place(line)
            entry = parsed(line, number, prev, self._keys[site])
        except Broken as broken:
            raise UpdateRefused("ledger", f"the charge beside the reply: {broken}") from None
        sent = self._sent[request.round, request.attempt]
        wanted = {"kind": "charge", "run": self.run, "round": request.round, "attempt": request.attempt}
        wanted |= {"request": sent.request, "witness": sent.witness}
        for name, value in wanted.items():
            if entry.body.get(name) != value:
                raise UpdateRefused("ledger", f"the charge beside the reply is for another {name} than was asked for")
        counted = self._received.get((request.round, request.attempt), {}).get(site)
        if number <= self.heads.newest.get(site, (-1, ""))[0] and counted != [number, entry.hash]:
            raise UpdateRefused("ledger", f"the charge beside the reply is entry {number}, which was counted before: its ledger went back")
        return number, entry.hash

    def receive(self, round: int, attempt: int, charges: Mapping[str, tuple[int, str]]) -> None:
        """Countersign the charges that came in an attempt, those that are not countersigned yet.  Not synced: the next request takes
        them along to the disk before it is sent, and a power cut before that leaves charges without a receipt, which count."""
        with self.chain.held():
            known = self._received.get((round, attempt), {})
            new = {site: head for site, head in charges.items() if known.get(site) != list(head)}
            if new:
                self.chain.append({"kind": "receipts", "round": round, "attempt": attempt, **self._counted(new)}, sync=False)

    def end(self, heads: Mapping[str, tuple[int, str]]) -> str:
        """Write that the run is over, with the sites' last heads, unless that is the last word already; the chain's head."""
        with self.chain.held():
            if not self.ended:
                self.chain.append({"kind": "end", **self._counted(heads)})
            return self.chain.head


def _place(line: bytes) -> tuple[int, str]:
    """The number that a line gives itself, and the hash of the one before it."""
    import json

    try:
        body = json.loads(line)["body"]
        number, prev = body["seq"], body["prev"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Broken("it is no entry") from None
    if type(number) is not int or not isinstance(prev, str):
        raise Broken("it is no entry")
    return number, prev
