"""A coordinator that lies at random with sites on its side, and what it could work out from all that it was told.

It shows sites different lists of keys, cohorts, histories and survivors, in several attempts, rounds and runs at once, over the same two
models, in any order; its colluders sign whatever it likes and give it all that they hold.  `sums` is what it can then take the masks off.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from secagg_federation import Federation

from privacy.secure_aggregation import Session
from privacy.secure_aggregation.messages import (
    Abandon,
    Abandoned,
    Begin,
    Consent,
    Delivery,
    KeyList,
    Masked,
    Open,
    Outcome,
    Proof,
    Refusal,
    Released,
    Shares,
    Survivors,
    Unmasking,
    Voided,
    list_digest,
    sign,
)
from privacy.secure_aggregation.thresholds import agreed

MODELS = (b"m" * 32, b"n" * 32)
OVER = object()


@dataclass
class Tried:
    """One attempt, as the liar drives it.  sent: site -> its vector's transcript and cohort."""

    session: Session
    model: bytes
    keys: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, Shares] = field(default_factory=dict)
    need: dict[str, int] = field(default_factory=dict)
    sent: dict[str, tuple[bytes, tuple[str, ...]]] = field(default_factory=dict)
    lists: list[tuple[bytes, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    consents: dict[bytes, dict[str, Consent]] = field(default_factory=lambda: defaultdict(dict))
    words: dict[str, Abandoned] = field(default_factory=dict)
    seeds: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # dealer -> holders whose share of it the liar has
    opened: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the same of keys


class Liar:
    """The liar over a federation; the last `colluders` sites are on its side."""

    def __init__(self, f: Federation, colluders: int, seed: int):
        self.f, self.chance = f, random.Random(seed)
        self.honest, self.liars = f.names[: len(f.names) - colluders], f.names[len(f.names) - colluders :]
        self.tried: list[Tried] = []
        self.refused: dict[str, int] = defaultdict(int)

    # ------------------------------------------------------------------------------------------------- what it does

    def lie(self, attempts: int) -> None:
        """Drive so many attempts, a step of one, then a step of another."""
        under_way: list[Iterator[None]] = []
        for number in range(attempts):
            run, round = self.chance.choice(("one", "one", "two")), self.chance.randrange(2)
            session = self.f.session(round=round, attempt=number + 1, run=run)
            tried = Tried(session, MODELS[round] if self.chance.random() < 0.7 else MODELS[0])
            self.tried.append(tried)
            under_way.append(self._drive(tried))
            for _ in range(self.chance.choice((1, 3, 6, 20))):
                if under_way:
                    self._step(under_way)
        while under_way:
            self._step(under_way)

    def _step(self, under_way: list[Iterator[None]]) -> None:
        one = self.chance.choice(under_way)
        if next(one, OVER) is OVER:
            under_way.remove(one)

    def _drive(self, a: Tried) -> Iterator[None]:
        for name in self.f.names:
            self._tell(a, name, Open(a.session))
        yield
        lists = [tuple(a.keys[n] for n in sorted(a.keys)), tuple(a.keys[n] for n in sorted(self._some(sorted(a.keys), 1)))]
        for name in self.f.names:
            self._tell(a, name, KeyList(a.session, self._mostly(lists)))
        yield
        cohorts = [tuple(sorted(a.shares)), tuple(self._some(sorted(a.shares), 2))]
        histories = [tuple(self._history(a)), ()]
        for name in self._shuffled(self.f.names):
            cohort = self._mostly(cohorts)
            boxes = tuple(Delivery(d, box.sealed) for d in cohort for box in a.shares[d].boxes if box.holder == name != d)
            self._tell(a, name, Begin(a.session, self.f.terms(a.model), cohort, self._mostly(histories), boxes))
        yield
        for _ in range(3):
            self._name_survivors(a)
            for name in self._shuffled(self.f.names):
                if a.lists:
                    _, alive, dropped = self._mostly(a.lists[::-1])
                    self._tell(a, name, Survivors(a.session, alive, dropped))
                if self.chance.random() < 0.15:
                    self._tell(a, name, Abandon(a.session))
            yield
            for wanted, alive, dropped in a.lists:
                proof = Proof(a.session, alive, dropped, tuple(a.consents[wanted].values()))
                for name in self._shuffled(self.f.names):
                    if self.chance.random() < 0.8:
                        self._tell(a, name, proof)
            yield
        if not any(len(c) >= 2 * len(self.f.names) / 3 for c in a.consents.values()):
            for name in self.f.names:
                self._tell(a, name, Abandon(a.session))

    def _name_survivors(self, a: Tried) -> None:
        """A list over one of the transcripts that vectors came under, and the colluders' signatures on it."""
        if not a.sent:
            return
        transcript, cohort = self._mostly([a.sent[n] for n in sorted(a.sent)])
        came = [n for n in cohort if a.sent.get(n, (b"",))[0] == transcript]
        alive = came if self.chance.random() < 0.5 else self._some(came, 3)
        dropped = tuple(n for n in cohort if n not in alive)
        wanted = list_digest(transcript, tuple(alive), dropped)
        a.lists.append((wanted, tuple(alive), dropped))
        for name in self.liars:
            a.consents[wanted][name] = sign(Consent(a.session, name, wanted), self.f.identities[name])
            a.words[name] = sign(Abandoned(a.session, name), self.f.identities[name])

    def _history(self, a: Tried) -> Iterator[Outcome]:
        """How earlier attempts ended, as far as the liar has signatures for it; of one that has none, whichever word it likes."""
        for other in self.tried:
            if other is a or not other.sent or self.chance.random() < 0.1:
                continue
            wanted, alive, dropped = max(other.lists, key=lambda one: len(other.consents[one[0]]), default=(b"", (), ()))
            consents = other.consents[wanted]
            if len(consents) > len(other.words):
                transcript = next(iter(t for t, c in other.sent.values() if list_digest(t, alive, dropped) == wanted))
                yield Released(other.session, transcript, alive, dropped, tuple(consents.values()))
            else:
                yield Voided(other.session, tuple(other.words.values()))

    def _tell(self, a: Tried, name: str, message: Any) -> None:
        reply = self.f.tell(name, message, self.f.terms(a.model))
        if isinstance(reply, Refusal):
            self.refused[reply.check] += 1
        elif isinstance(reply, Masked):
            a.sent[name] = (reply.transcript, message.cohort)
            for held in self.f.sites[name].state.attempt(a.session).held if name in self.liars else ():
                a.seeds[held.dealer].add(name)
                a.opened[held.dealer].add(name)
        elif isinstance(reply, Consent):
            a.consents[reply.list][name] = reply
        elif isinstance(reply, Unmasking):
            for share in reply.seeds:
                a.seeds[share.dealer].add(name)
            for share in reply.keys:
                a.opened[share.dealer].add(name)
        elif isinstance(reply, Shares):
            a.shares[name], a.need[name] = reply, agreed(message.keys).neighbours.threshold
        elif isinstance(reply, Abandoned):
            a.words[name] = reply
        else:
            a.keys[name] = reply

    def _mostly(self, choices: list[Any]) -> Any:
        return choices[0] if self.chance.random() < 0.8 else self.chance.choice(choices)

    def _shuffled(self, names: list[str]) -> list[str]:
        return self.chance.sample(names, len(names))

    def _some(self, names: list[str], most: int) -> list[str]:
        """Without up to `most` of them."""
        gone = self.chance.sample(names, min(len(names), self.chance.randint(0, most)))
        return [n for n in names if n not in gone]

    # --------------------------------------------------------------------------------------------- what it could learn

    def sums(self) -> list[tuple[Tried, frozenset[str]]]:
        """The sets of honest sites whose vectors' sum it can take the masks off; a set of one is that site's vector."""
        found = []
        for a in self.tried:
            bare = {n for n in self.honest if n in a.sent and len(a.seeds[n]) >= a.need[n]}
            known = {n for n in a.shares if len(a.opened[n]) >= a.need[n]} | set(self.liars)
            while bare:
                group, border = set(), {next(iter(bare))}
                whole = True
                while border:
                    one = border.pop()
                    group.add(one)
                    transcript, cohort = a.sent[one]
                    for other in set(cohort) - {one} - known:
                        if one in known:
                            break
                        if other not in bare or a.sent[other][0] != transcript:
                            whole = False
                        elif other not in group:
                            border.add(other)
                bare -= group
                if whole:
                    found.append((a, frozenset(group)))
        return found
