"""A site's half of the protocol: a message comes in, a message goes out, and what must not be forgotten is on disk before.

The site takes the coordinator, and up to 2t − n − 1 of the other sites, for liars.  What it goes by is its own identity, its
pinned roster, what it computed itself (the terms), and what other sites signed.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedvision.errors import AggregationRefused
from privacy.secure_aggregation import codec, lists, masks, shamir
from privacy.secure_aggregation.checks import require
from privacy.secure_aggregation.graph import draw
from privacy.secure_aggregation.lists import smallest_atom
from privacy.secure_aggregation.messages import (
    VERSION,
    Abandon,
    Abandoned,
    Begin,
    Box,
    Consent,
    KeyList,
    Keys,
    Masked,
    Open,
    Outcome,
    Proof,
    Refusal,
    Released,
    Session,
    Share,
    Shares,
    Signed,
    Survivors,
    Terms,
    ToCoordinator,
    ToSite,
    Unmasking,
    keys_transcript,
    list_digest,
    masks_transcript,
    seed_digest,
    share_digest,
    sign,
    signed_by,
)
from privacy.secure_aggregation.primitives import Identity, KeyPair, digest, pair_key, seal, self_key, unseal
from privacy.secure_aggregation.roster import Pinned
from privacy.secure_aggregation.state import Attempt, Held, Reached, SiteState, Taken, lists_of
from privacy.secure_aggregation.store import Store
from privacy.secure_aggregation.thresholds import Thresholds, agreed


@dataclass(frozen=True)
class Contribution:
    """What a site has to give.  terms: as the site itself computed them.

    vectors: makes one integer vector a ring, called when all checks are passed.  The protocol may mask them in place: they
    are its own from then on.
    """

    terms: Terms
    vectors: Callable[[], Sequence[np.ndarray]]


def _ordered(names: Sequence[str]) -> bool:
    return list(names) == sorted(set(names))


class SecureSite:
    """One site.  threshold: fewest signatures that it asks for (0: ⌊2n/3⌋ + 1); its minimum cohort is its pinned roster's.

    charge: called before a vector leaves, for a budget that may refuse by raising.
    """

    def __init__(
        self,
        site: str,
        identity: Identity,
        pinned: Pinned,
        store: Store,
        threshold: int = 0,
        charge: Callable[[Session], None] | None = None,
    ):
        self.site, self.identity, self.pinned, self.store = site, identity, pinned, store
        self.threshold, self.charge = threshold, charge
        kept = store.read("state")
        self.state: SiteState = SiteState() if kept is None else codec.decode(SiteState, kept)
        self._listed: dict[bytes, KeyList] = {}

    def answer(self, message: ToSite, contribution: Contribution | None = None) -> ToCoordinator:
        """The reply; a `Refusal` by the name of the check that `message` does not pass.  The same bytes for the same message.

        contribution: needed for `Begin`.  What its `vectors` raises is raised, and nothing of the attempt has changed.
        """
        try:
            require("version", message.version == VERSION, f"a message of version {message.version}, and this site speaks {VERSION}")
            require("roster", message.session.roster == self.pinned.fingerprint, "this site has not pinned the message's roster")
            if isinstance(message, Begin):
                return self._begin(message, contribution)
            handlers: dict[type, Callable[[Any], ToCoordinator]] = {
                Open: self._open, KeyList: self._key_list, Survivors: self._survivors, Proof: self._proof, Abandon: self._abandon,
            }  # fmt: skip
            require("malformed", type(message) in handlers, f"{type(message).__name__} is not for a site")
            return handlers[type(message)](message)
        except AggregationRefused as refused:
            return Refusal(message.session, self.site, refused.check, str(refused))

    # --------------------------------------------------------------------------------------------- keys and shares

    def _open(self, message: Open) -> Keys:
        known = self.state.attempt(message.session)
        if known is not None:
            return known.keys
        self._require_new(message.session)
        mask, box = KeyPair.fresh(), KeyPair.fresh()
        keys = sign(Keys(message.session, self.site, mask.public, box.public, self.threshold, self.pinned.minimum_cohort), self.identity)
        attempt = Attempt(message.session, mask.secret, box.secret, os.urandom(shamir.SECRET), keys)
        self._save(replace(self.state, attempts=(*self.state.attempts, attempt)))
        return keys

    def _key_list(self, message: KeyList) -> Shares:
        attempt = self._attempt(message.session)
        transcript = keys_transcript(message)
        if attempt.shares is not None:
            require("second_key_list", attempt.listed == transcript, "this site has dealt its shares over another list of keys")
            return attempt.shares
        self._check_keys(message, attempt)
        thresholds, names = agreed(message.keys), [k.site for k in message.keys]
        holders = draw(self.site, [name for name in names if name != self.site], thresholds.neighbours.degree)
        shares, own = self._deal(attempt, message, transcript, holders, thresholds)
        self.store.write(_beside("keys", message.session), codec.encode(message))
        self._update(replace(attempt, listed=transcript, shares=shares, held=(own,)))
        return shares

    def _check_keys(self, message: KeyList, attempt: Attempt) -> None:
        require("malformed", _ordered([k.site for k in message.keys]), "the keys are not in the order of the sites' names, each once")
        for keys in message.keys:
            public = self.pinned.key(keys.site)
            require("stranger", public is not None, f"{keys.site} is not in the pinned roster")
            bound = keys.session == message.session and keys.version == VERSION
            require("key_signature", bound and signed_by(keys, public or b""), f"{keys.site} has not signed these keys for this attempt")
        require("own_keys", attempt.keys in message.keys, "the list does not hold this site's keys as it made them")

    def _deal(
        self, attempt: Attempt, listed: KeyList, transcript: bytes, holders: Sequence[str], thresholds: Thresholds
    ) -> tuple[Shares, Held]:
        places = {k.site: x for x, k in enumerate(listed.keys, 1)}
        publics = {k.site: k.box for k in listed.keys}
        threshold, xs = thresholds.neighbours.threshold, [places[h] for h in holders]
        seeds, keys = shamir.split(attempt.seed, threshold, xs), shamir.split(attempt.mask, threshold, xs)
        boxes = []
        for holder in holders:
            seed, key = seeds[places[holder]], keys[places[holder]]
            sealed = b"" if holder == self.site else _agreed(seal, attempt.box, publics[holder], transcript, self.site, holder, seed + key)
            digests = [share_digest(listed.session, self.site, holder, value) for value in (seed, key)]
            boxes.append(Box(holder, sealed, *digests))
        committed = seed_digest(listed.session, self.site, attempt.seed)
        shares = sign(Shares(listed.session, self.site, transcript, committed, tuple(boxes)), self.identity)
        return shares, Held(self.site, seeds[places[self.site]], keys[places[self.site]])

    # ------------------------------------------------------------------------------------------- the masked vector

    def _begin(self, message: Begin, contribution: Contribution | None) -> Masked:
        attempt = self._attempt(message.session)
        require("order", attempt.shares is not None, "no shares have been dealt in this attempt")
        asked = digest(b"begin", codec.encode(message))
        if attempt.begun:
            require("second_begin", attempt.begun == asked, "this site has sent its vector under another model, cohort or history")
            body = self.store.read(_beside("body", message.session))
            require("order", body is not None, "the vector of this attempt is no longer kept")
            return Masked(message.session, self.site, attempt.transcript, body or b"", attempt.signature)
        if contribution is None:
            raise ValueError("a Begin is answered with a Contribution")
        self._require_new(message.session)
        require("terms", message.terms == contribution.terms, "the model, layout, clip, scale or ring is not what this site computed")
        listed = self._keys_of(attempt)
        thresholds = agreed(listed.keys)
        self._check_cohort(message, attempt, listed, thresholds)
        self._check_history(message)
        transcript = masks_transcript(attempt.listed, message, thresholds.signatures, thresholds.cohort)
        applied = self._masks(message, attempt, listed, transcript)
        vectors = contribution.vectors()
        if self.charge is not None:
            self.charge(message.session)
        bodies = [
            masks.pack(masks.apply(v, applied, ring, part, masks.in_place(v, ring)), ring)
            for part, (v, ring) in enumerate(zip(vectors, message.terms.rings, strict=True))
        ]
        sent = bodies[0] if len(bodies) == 1 else b"".join(bodies)
        masked = sign(Masked(message.session, self.site, transcript, sent), self.identity)  # type: ignore[arg-type]
        self.store.write(_beside("body", message.session), sent)
        self._record_sent(message, attempt, listed, thresholds, asked, masked)
        return masked

    def _check_cohort(self, message: Begin, attempt: Attempt, listed: KeyList, thresholds: Thresholds) -> None:
        assert attempt.shares is not None
        cohort, dealers = set(message.cohort), [d.dealer for d in message.deliveries]
        require("malformed", _ordered(message.cohort) and self.site in cohort, "the cohort is not in order, or lacks this site")
        require("malformed", _ordered(dealers) and self.site not in dealers, "the boxes are not in the order of the dealers' names")
        require("stranger", cohort <= {k.site for k in listed.keys} and set(dealers) <= cohort, "a site that is not among the keys")
        least = thresholds.survivors
        require("threshold", len(cohort) >= least, f"a cohort of {len(cohort)}, and {least} sites must remain")
        most, near = thresholds.neighbours.in_degree, thresholds.neighbours.threshold
        require("in_degree", len(dealers) <= most, f"{len(dealers)} sites chose this one as a holder, and {most} is the most by chance")
        holders = sum(box.holder in cohort for box in attempt.shares.boxes)
        require("few_neighbours", holders >= near, f"{holders} of the holders of this site's shares remain, and {near} are needed")

    def _check_history(self, message: Begin) -> None:
        let_go = lists.is_marked(self.store.read("models") or b"", message.terms.model)
        require("history", not let_go, "this site sent a vector for the same model so long ago that it keeps no record of how that ended")
        outcomes = {outcome.session: outcome for outcome in message.history}
        require("malformed", len(outcomes) == len(message.history), "an earlier attempt has two outcomes")
        for taken in self.state.family(message.session, message.terms.model):
            proved = taken.session in outcomes and self._proves(outcomes[taken.session], taken)
            where = f"round {taken.session.round}, attempt {taken.session.attempt} of run {taken.session.run}"
            require("history", proved, f"this site sent a vector for the same round or model in {where}, and how that ended is not proved")

    def _proves(self, outcome: Outcome, taken: Taken) -> bool:
        """Whether the outcome is the only one that the attempt can have: enough of its sites have signed it."""
        signed: Sequence[Signed]
        if isinstance(outcome, Released):
            if outcome.transcript != taken.transcript:
                return False
            wanted = list_digest(taken.transcript, outcome.alive, outcome.dropped)
            signed = [c for c in outcome.consents if c.list == wanted and c.site in outcome.alive]
        else:
            signed = outcome.statements
        return self._signers(signed, taken.session, set(taken.members)) >= taken.threshold

    def _signers(self, signed: Sequence[Signed], session: Session, among: set[str]) -> int:
        keys = self.pinned.keys_under(session.roster)  # of an earlier attempt's time: a key that came later has no word in it
        good = {
            message.site
            for message in signed
            if message.session == session and message.site in among and signed_by(message, keys.get(message.site, b""))
        }
        return len(good)

    def _masks(self, message: Begin, attempt: Attempt, listed: KeyList, transcript: bytes) -> list[masks.Mask]:
        """The site's own mask, and one for each neighbour in the cohort: added by the earlier name, taken away by the later."""
        assert attempt.shares is not None
        publics = {k.site: k.mask for k in listed.keys}
        near = {box.holder for box in attempt.shares.boxes} | {d.dealer for d in message.deliveries}
        own = masks.Mask(self_key(attempt.seed, transcript, self.site), True)
        pairs = [
            masks.Mask(_agreed(pair_key, attempt.mask, publics[other], transcript, self.site, other), self.site < other)
            for other in sorted(near & set(message.cohort) - {self.site})
        ]
        return [own, *pairs]

    def _record_sent(self, message: Begin, attempt: Attempt, listed: KeyList, thresholds: Thresholds, asked: bytes, masked: Masked) -> None:
        publics = {k.site: k.box for k in listed.keys}
        opened = [
            (d.dealer, unseal(attempt.box, publics[d.dealer], attempt.listed, d.dealer, self.site, d.sealed)) for d in message.deliveries
        ]
        held = [
            Held(dealer, both[: shamir.SHARE], both[shamir.SHARE :]) for dealer, both in opened if both and len(both) == 2 * shamir.SHARE
        ]
        sent = replace(
            attempt, mask=b"", box=b"", seed=b"", held=(*attempt.held, *held), begun=asked, transcript=masked.transcript,
            cohort=message.cohort, history=lists_of(message.history), signature=masked.signature,
        )  # fmt: skip
        session = message.session
        taken = Taken(session, message.terms.model, masked.transcript, thresholds.signatures, tuple(k.site for k in listed.keys))
        older = [a.session for a in self.state.attempts if _before(a.session, session)]
        others = tuple(a for a in self.state.attempts if a.session != session and a.session not in older)
        reached = tuple(r for r in self.state.reached if r.run != session.run)
        now = Reached(session.run, session.round, session.attempt, self.state.forgotten(session.run))
        state, models = replace(
            self.state, attempts=(*others, sent), taken=(*self.state.taken, taken), reached=(*reached, now)
        ).pruned()  # fmt: skip
        if models:  # first: a crash in between forgets nothing
            self.store.write("models", (self.store.read("models") or b"") + b"".join(map(lists.mark, models)))
        self._save(state)
        for erased in older:
            self._forget(erased)

    # ---------------------------------------------------------------------------------------------- the unmasking

    def _survivors(self, message: Survivors) -> Consent:
        attempt = self._attempt(message.session)
        require("order", bool(attempt.begun), "this site has sent no vector in this attempt")
        attempt = self._settle_list(attempt, message.alive, message.dropped)
        assert attempt.consent is not None
        return attempt.consent

    def _settle_list(self, attempt: Attempt, alive: tuple[str, ...], dropped: tuple[str, ...]) -> Attempt:
        """The attempt with this list signed; it was signed before, or passes every check now."""
        wanted = list_digest(attempt.transcript, alive, dropped)
        if attempt.list:
            require("second_list", attempt.list == wanted, "this site has signed another survivor list in this attempt")
            return attempt
        self._judge(attempt, alive, dropped)
        consent = sign(Consent(attempt.session, self.site, wanted), self.identity)
        signed = replace(attempt, list=wanted, alive=alive, consent=consent)
        taken = tuple(replace(t, alive=alive) if t.session == attempt.session else t for t in self.state.taken)
        self._update(signed, taken)
        return signed

    def _judge(self, attempt: Attempt, alive: tuple[str, ...], dropped: tuple[str, ...]) -> None:
        divided = _ordered(alive) and _ordered(dropped) and sorted((*alive, *dropped)) == list(attempt.cohort)
        require("partition", divided, "the list does not put each site of the cohort among the alive or the dropped, once")
        thresholds = agreed(self._keys_of(attempt).keys)
        require("few_survivors", len(alive) >= thresholds.survivors, f"{len(alive)} survivors, and {thresholds.survivors} are needed")
        require("not_alive", self.site in alive, "this site is among the dropped")
        taken = self.state.was_taken(attempt.session)
        assert taken is not None
        known = [t.alive for t in self.state.family(attempt.session, taken.model) if t.alive]
        smallest = smallest_atom([*attempt.history, *known, alive])
        require("atoms", smallest >= thresholds.cohort, f"with the lists before, this one isolates {smallest} of {thresholds.cohort} sites")

    def _proof(self, message: Proof) -> Unmasking:
        attempt = self._attempt(message.session)
        require("order", bool(attempt.begun), "this site has sent no vector in this attempt")
        wanted = list_digest(attempt.transcript, message.alive, message.dropped)
        if attempt.unmasking is not None:
            require("second_list", attempt.list == wanted, "this site has answered for another survivor list in this attempt")
            return attempt.unmasking
        least = agreed(self._keys_of(attempt).keys).signatures
        consents = [c for c in message.consents if c.list == wanted]
        count = self._signers(consents, message.session, set(message.alive) & set(attempt.cohort))
        require("few_consents", count >= least, f"{count} sites have signed this list, and {least} are needed")
        attempt = self._settle_list(attempt, message.alive, message.dropped)
        alive, dropped = set(message.alive), set(message.dropped)
        seeds = tuple(Share(h.dealer, h.seed) for h in attempt.held if h.dealer in alive)
        keys = tuple(Share(h.dealer, h.key) for h in attempt.held if h.dealer in dropped)
        unmasking = sign(Unmasking(message.session, self.site, wanted, seeds, keys), self.identity)
        self._update(replace(attempt, unmasking=unmasking, held=()))
        return unmasking

    def _abandon(self, message: Abandon) -> Abandoned:
        said = self.state.was_abandoned(message.session)
        if said is not None:
            return said
        taken = self.state.was_taken(message.session)
        let_go = message.session.round <= self.state.forgotten(message.session.run)
        require("order", not let_go, "this site keeps no record of that round any more, and does not say how it ended")
        require("order", taken is None or not taken.alive, "this site has signed a survivor list of this attempt")
        statement = sign(Abandoned(message.session, self.site), self.identity)
        attempts = tuple(a for a in self.state.attempts if a.session != message.session)
        self._save(replace(self.state, attempts=attempts, abandoned=(*self.state.abandoned, statement)))
        self._forget(message.session)
        return statement

    # -------------------------------------------------------------------------------------------------- what is kept

    def _require_new(self, session: Session) -> None:
        require("order", self.state.was_abandoned(session) is None, "this site has abandoned this attempt")
        last = self.state.last(session.run)
        now = (session.round, session.attempt)
        require("round_back", now > last, f"round {now[0]}.{now[1]}, and this site has sent a vector in {last[0]}.{last[1]}")

    def _attempt(self, session: Session) -> Attempt:
        attempt = self.state.attempt(session)
        require("order", attempt is not None, "this attempt is not open: it was never opened, was abandoned, or a later one has begun")
        assert attempt is not None
        return attempt

    def _keys_of(self, attempt: Attempt) -> KeyList:
        if attempt.listed not in self._listed:
            content = self.store.read(_beside("keys", attempt.session))
            assert content is not None
            self._listed = {attempt.listed: codec.decode(KeyList, content)}
        return self._listed[attempt.listed]

    def _update(self, attempt: Attempt, taken: tuple[Taken, ...] | None = None) -> None:
        attempts = tuple(attempt if a.session == attempt.session else a for a in self.state.attempts)
        self._save(replace(self.state, attempts=attempts, taken=self.state.taken if taken is None else taken))

    def _save(self, state: SiteState) -> None:
        self.store.write("state", codec.encode(state))
        self.state = state

    def _forget(self, session: Session) -> None:
        for kind in ("keys", "body"):
            self.store.delete(_beside(kind, session))


def _before(one: Session, other: Session) -> bool:
    return one.run == other.run and (one.round, one.attempt) < (other.round, other.attempt)


def _beside(kind: str, session: Session) -> str:
    return f"{kind}-{digest(codec.encode(session)).hex()[:32]}"


def _agreed(function: Callable[..., bytes], *arguments: Any) -> bytes:
    """`function`, which agrees on a secret with another site's key; that key may be one whose secrets anybody knows."""
    try:
        return function(*arguments)
    except ValueError:
        require("small_order", False, "a public key of another site is one whose shared secrets anybody knows")
        raise
