"""The coordinator's half: one attempt at a round, from keys to one sum.

It needs no secret of its own.  What it gets is checked, so that a careless or broken site is left out by name and the rest go
on; what it works out is checked against what the sites committed to, so that a wrong sum is never handed on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedvision.errors import AggregationRefused, RoundFailed
from privacy.secure_aggregation import codec, masks, shamir
from privacy.secure_aggregation.messages import (
    VERSION,
    Abandon,
    Abandoned,
    Begin,
    Consent,
    Delivery,
    KeyList,
    Keys,
    Masked,
    Open,
    Outcome,
    Proof,
    Released,
    Session,
    Share,
    Shares,
    Survivors,
    Terms,
    Unmasking,
    Voided,
    keys_transcript,
    list_digest,
    masks_transcript,
    seed_digest,
    share_digest,
    signed_by,
)
from privacy.secure_aggregation.primitives import KeyPair, pair_key, self_key, usable
from privacy.secure_aggregation.roster import Roster
from privacy.secure_aggregation.thresholds import Thresholds, agreed, with_room


@dataclass(frozen=True)
class Snapshot:
    """A coordinator's attempt as it is kept for a restart; `sums` are the rings' bytes so far."""

    session: Session
    dropouts: int
    keys: tuple[Keys, ...]
    listed: KeyList | None
    shares: tuple[Shares, ...]
    begin: Begin | None
    sent: tuple[str, ...]
    sums: tuple[bytes, ...]
    survivors: Survivors | None
    consents: tuple[Consent, ...]
    unmaskings: tuple[Unmasking, ...]


class Attempt:
    """One attempt.  `excluded`: site -> why what it sent was not taken; each stage goes on without such sites."""

    def __init__(self, roster: Roster, session: Session, dropouts: int = 0):
        if session.roster != roster.fingerprint:
            raise AggregationRefused("roster", "the session is of another roster")
        self.roster, self.session, self.dropouts = roster, session, dropouts
        self.excluded: dict[str, str] = {}
        self.keys: dict[str, Keys] = {}
        self.shares: dict[str, Shares] = {}
        self.listed: KeyList | None = None
        self.begin: Begin | None = None
        self.sums: list[np.ndarray] = []
        self.sent: list[str] = []
        self.list: Survivors | None = None
        self.consents: dict[str, Consent] = {}
        self.unmaskings: dict[str, Unmasking] = {}
        self._public = roster.keys

    # ---------------------------------------------------------------------------------------------- what comes in

    def take(self, message: Any) -> bool:
        """Whether the message is taken.  A second one from a site, or one whose stage is over, changes nothing; one that is
        not sound puts its site into `excluded`."""
        site = getattr(message, "site", "")
        try:
            self._require(site in self._public and message.session == self.session, "session", "not of this attempt's sites")
            self._require(message.version == VERSION, "version", f"a message of version {message.version}")
            handlers: dict[type, Callable[[Any], bool]] = {
                Keys: self._keys, Shares: self._shares, Masked: self._masked, Consent: self._consent, Unmasking: self._unmasking,
            }  # fmt: skip
            if type(message) not in handlers:
                self._require(False, getattr(message, "check", "unexpected"), getattr(message, "reason", type(message).__name__))
            return handlers[type(message)](message)
        except AggregationRefused as refused:
            self.excluded.setdefault(site, f"{refused.check}: {refused}")
            return False

    def _require(self, holds: bool, check: str, reason: str) -> None:
        if not holds:
            raise AggregationRefused(check, reason)

    def _signed(self, message: Any) -> None:
        self._require(signed_by(message, self._public[message.site]), "signature", f"{message.site} has not signed this")

    def _keys(self, keys: Keys) -> bool:
        if self.listed is not None or keys.site in self.keys:
            return False
        self._signed(keys)
        self._require(usable(keys.mask) and usable(keys.box), "small_order", "public keys whose shared secrets anybody knows")
        self.keys[keys.site] = keys
        return True

    def _shares(self, shares: Shares) -> bool:
        if self.listed is None or self.begin is not None or shares.site in self.shares:
            return False
        names, degree = {k.site for k in self.listed.keys}, self.thresholds.neighbours.degree
        holders = [box.holder for box in shares.boxes]
        self._require(shares.site in names and shares.transcript == self._transcript, "transcript", "shares over another list of keys")
        self._signed(shares)
        whole = holders == sorted(set(holders)) and set(holders) <= names and shares.site in holders and len(holders) == degree + 1
        self._require(whole, "malformed", f"shares for {len(holders)} holders, and {degree + 1} are dealt to, each once")
        self.shares[shares.site] = shares
        return True

    def _masked(self, masked: Masked) -> bool:
        if self.begin is None or self.list is not None or masked.site in self.sent:
            return False
        rings = self.begin.terms.rings
        self._require(masked.site in self.begin.cohort, "stranger", "a vector from beyond the cohort")
        self._require(len(masked.body) == sum(r.packed for r in rings), "malformed", f"{len(masked.body)} bytes of numbers")
        self._require(masked.transcript == self.transcript, "transcript", "masks over another model, cohort or history")
        self._signed(masked)
        at, body = 0, memoryview(masked.body)
        for total, ring in zip(self.sums, rings, strict=True):
            np.add(total, masks.unpack(body[at : at + ring.packed], ring), out=total)
            at += ring.packed
        self.sent.append(masked.site)
        return True

    def _consent(self, consent: Consent) -> bool:
        if self.list is None or consent.site in self.consents:
            return False
        self._require(consent.site in self.list.alive and consent.list == self.list_digest, "transcript", "a consent to another list")
        self._signed(consent)
        self.consents[consent.site] = consent
        return True

    def _unmasking(self, unmasking: Unmasking) -> bool:
        if self.list is None or unmasking.site in self.unmaskings:
            return False
        self._require(unmasking.site in self.list.alive and unmasking.list == self.list_digest, "transcript", "shares for another list")
        self._signed(unmasking)
        self.unmaskings[unmasking.site] = unmasking
        return True

    # ---------------------------------------------------------------------------------------------- what goes out

    def open(self) -> Open:
        """Ask every site."""
        return Open(self.session)

    def list_keys(self) -> KeyList:
        """Close the keys: the list for each site in it.  Sites that leave no room for the planned dropouts are left out."""
        if self.listed is None:
            kept, strict = with_room(list(self.keys.values()), self.dropouts)
            for keys in strict:
                asked = f"threshold {keys.threshold}, minimum cohort {keys.cohort}"
                self.excluded[keys.site] = f"too_strict: {asked} leave no room for {self.dropouts} dropouts"
            listed = KeyList(self.session, tuple(kept))
            self._least(len(kept), self._try_agree(listed).survivors, "keys")
            self.listed = listed
            self._transcript = keys_transcript(listed)
        return self.listed

    def _try_agree(self, listed: KeyList) -> Thresholds:
        try:
            self.thresholds = agreed(listed.keys)
        except AggregationRefused as refused:
            raise RoundFailed(f"round {self.session.round}: {refused}{self._why()}") from None
        return self.thresholds

    def begins(self, terms: Terms, history: Sequence[Outcome] = ()) -> dict[str, Begin]:
        """Close the shares: what each site of the cohort is sent.  The same for the same arguments; the first ones count."""
        listed = self.list_keys()
        if self.begin is None:
            cohort = tuple(k.site for k in listed.keys if k.site in self.shares)
            self._least(len(cohort), self.thresholds.survivors, "shares")
            self._start(Begin(self.session, terms, cohort, tuple(history), ()))
        assert self.begin is not None
        dealt: dict[str, list[Delivery]] = {site: [] for site in self.begin.cohort}
        for dealer in self.begin.cohort:
            for box in self.shares[dealer].boxes:
                if box.holder in dealt and box.holder != dealer:
                    dealt[box.holder].append(Delivery(dealer, box.sealed))
        b = self.begin
        return {site: Begin(b.session, b.terms, b.cohort, b.history, tuple(boxes)) for site, boxes in dealt.items()}

    def _start(self, begin: Begin) -> None:
        self.begin = begin
        self.transcript = masks_transcript(self._transcript, begin, self.thresholds.signatures, self.thresholds.cohort)
        self.sums = [np.zeros(ring.size, ring.dtype) for ring in begin.terms.rings]

    def survivors(self) -> Survivors:
        """Close the vectors: the list to be signed by those who are alive."""
        assert self.begin is not None
        if self.list is None:
            alive = tuple(site for site in self.begin.cohort if site in self.sent)
            self._least(len(alive), self.thresholds.survivors, "masked vectors")
            self._fix(Survivors(self.session, alive, tuple(s for s in self.begin.cohort if s not in self.sent)))
        assert self.list is not None
        return self.list

    def _fix(self, survivors: Survivors) -> None:
        self.list = survivors
        self.list_digest = list_digest(self.transcript, survivors.alive, survivors.dropped)

    def proof(self) -> Proof:
        """The list with the signatures that have come."""
        survivors = self.survivors()
        self._least(len(self.consents), self.thresholds.signatures, "signatures on the survivor list")
        return Proof(self.session, survivors.alive, survivors.dropped, tuple(self.consents[s] for s in sorted(self.consents)))

    def outcome(self) -> Released:
        """What a later attempt's sites are shown: this list, signed, may have been summed."""
        proof = self.proof()
        return Released(self.session, self.transcript, proof.alive, proof.dropped, proof.consents)

    def _least(self, count: int, least: int, what: str) -> None:
        if count < least:
            where = f"round {self.session.round}, attempt {self.session.attempt}"
            raise RoundFailed(f"{where}: {what} of {count} sites came, and {least} are needed{self._why()}")

    def _why(self) -> str:
        said = [f"{site} {why}" for site, why in sorted(self.excluded.items())]
        return f" ({'; '.join(said[:3])})" if said else ""

    # ------------------------------------------------------------------------------------------------ the one sum

    def total(self) -> list[np.ndarray]:
        """The sum over the survivors, signed integers, one vector a ring; RoundFailed where too few shares came.

        Takes the masks off in place; the sum is the same however often it is asked for.
        """
        assert self.begin is not None
        survivors = self.survivors()
        if not self._unmasked:
            remove = [*self._own_masks(survivors), *self._left_over(survivors)]
            for part, (total, ring) in enumerate(zip(self.sums, self.begin.terms.rings, strict=True)):
                masks.apply(total, remove, ring, part, out=total)
            self._unmasked = True
        return [masks.signed(total, ring) for total, ring in zip(self.sums, self.begin.terms.rings, strict=True)]

    _unmasked = False

    def _own_masks(self, survivors: Survivors) -> list[masks.Mask]:
        """The survivors' own masks, to be taken away."""
        seeds = self._rebuilt("seeds", survivors.alive)
        for site, seed in seeds.items():
            if seed_digest(self.session, site, seed) != self.shares[site].seed:
                self._blame(site)
        return [masks.Mask(self_key(seed, self.transcript, site), False) for site, seed in seeds.items()]

    def _left_over(self, survivors: Survivors) -> list[masks.Mask]:
        """What the survivors share with the dropped, which nobody cancels: the survivor's sign, the other way round."""
        assert self.listed is not None
        publics = {k.site: k.mask for k in self.listed.keys}
        alive = set(survivors.alive)
        drew = {site: {box.holder for box in self.shares[site].boxes} for site in (*survivors.alive, *survivors.dropped)}
        near = {site: sorted(a for a in alive if a in drew[site] or site in drew[a]) for site in survivors.dropped}
        keys = self._rebuilt("keys", [site for site in survivors.dropped if near[site]])
        for site, key in keys.items():
            if KeyPair.of(key).public != publics[site]:
                self._blame(site)
        return [
            masks.Mask(pair_key(key, publics[other], self.transcript, site, other), other > site)
            for site, key in keys.items()
            for other in near[site]
        ]

    def _blame(self, site: str) -> None:
        self.excluded[site] = "false_shares: its shares do not rebuild what it committed to"
        where = f"round {self.session.round}, attempt {self.session.attempt}"
        raise RoundFailed(f"{where}: the shares that {site} dealt do not rebuild its secret; try again without it")

    def _rebuilt(self, kind: str, dealers: Iterable[str]) -> dict[str, bytes]:
        """Each dealer's secret, from shares that match the dealer's commitments."""
        need = self.thresholds.neighbours.threshold
        shares = self._good_shares(kind)
        weights: dict[tuple[int, ...], list[int]] = {}
        secrets = {}
        for dealer in dealers:
            got = dict(sorted(shares.get(dealer, {}).items())[:need])
            self._least(len(got), need, f"shares of {dealer}'s {'own mask' if kind == 'seeds' else 'key'}")
            places = tuple(got)
            if places not in weights:
                weights[places] = shamir.weights(places)
            secret = shamir.combine(got, weights[places])
            if secret is None:
                self._blame(dealer)
            secrets[dealer] = secret or b""
        return secrets

    def _good_shares(self, kind: str) -> dict[str, dict[int, bytes]]:
        """Dealer -> place of the holder -> share."""
        assert self.listed is not None
        places = {k.site: x for x, k in enumerate(self.listed.keys, 1)}
        committed = {
            (dealer, box.holder): box.seed_digest if kind == "seeds" else box.key_digest
            for dealer, shares in self.shares.items()
            for box in shares.boxes
        }
        good: dict[str, dict[int, bytes]] = {}
        for holder, unmasking in self.unmaskings.items():
            revealed: tuple[Share, ...] = unmasking.seeds if kind == "seeds" else unmasking.keys
            for share in revealed:
                expected = committed.get((share.dealer, holder))
                if len(share.value) == shamir.SHARE and share_digest(self.session, share.dealer, holder, share.value) == expected:
                    good.setdefault(share.dealer, {})[places[holder]] = share.value
        return good

    # ---------------------------------------------------------------------------------------------------- restart

    def save(self) -> bytes:
        """Everything, for `load` after a restart; not once the masks are off."""
        if self._unmasked:
            raise ValueError("the masks are off: keep the sum instead")
        by_site: Callable[[Mapping[str, Any]], tuple[Any, ...]] = lambda taken: tuple(taken[site] for site in sorted(taken))  # noqa: E731
        sums = tuple(masks.pack(total, _wide(total)) for total in self.sums)
        return codec.encode(
            Snapshot(
                self.session, self.dropouts, by_site(self.keys), self.listed, by_site(self.shares), self.begin, tuple(self.sent),
                sums, self.list, by_site(self.consents), by_site(self.unmaskings),  # type: ignore[arg-type]
            )
        )  # fmt: skip

    @classmethod
    def load(cls, roster: Roster, content: bytes) -> "Attempt":
        """The attempt that `save` wrote."""
        kept: Snapshot = codec.decode(Snapshot, content)
        attempt = cls(roster, kept.session, kept.dropouts)
        attempt.keys = {k.site: k for k in kept.keys}
        if kept.listed is not None:
            attempt.listed = kept.listed
            attempt._try_agree(kept.listed)
            attempt._transcript = keys_transcript(kept.listed)
        attempt.shares = {s.site: s for s in kept.shares}
        if kept.begin is not None:
            attempt._start(kept.begin)
            attempt.sums = [np.frombuffer(b, r.dtype).copy() for b, r in zip(kept.sums, kept.begin.terms.rings, strict=True)]
        attempt.sent = list(kept.sent)
        if kept.survivors is not None:
            attempt._fix(kept.survivors)
        attempt.consents = {c.site: c for c in kept.consents}
        attempt.unmaskings = {u.site: u for u in kept.unmaskings}
        return attempt


def _wide(total: np.ndarray) -> masks.Ring:
    return masks.Ring(total.dtype.itemsize * 8, len(total))


def voided(session: Session, replies: Iterable[Any]) -> Voided:
    """What the sites' words on an abandoned attempt come to; a site's other replies are passed over."""
    return Voided(session, tuple(r for r in replies if isinstance(r, Abandoned) and r.session == session))


def abandon(session: Session) -> Abandon:
    """Ask every site of the attempt to erase it."""
    return Abandon(session)
