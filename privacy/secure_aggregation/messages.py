"""What passes between the coordinator and a site in one attempt at a round: frozen, versioned, with one encoding.

    coordinator            site
    Open              ->            who are you in this attempt?
                      <-  Keys      fresh public keys and the site's minima, signed
    KeyList           ->            everybody's Keys
                      <-  Shares    both secrets in shares, a sealed box for each holder, signed
    Begin             ->            the model's hash, the final cohort, the boxes for this site, earlier outcomes
                      <-  Masked    the vector under masks, signed
    Survivors         ->            who has sent one
                      <-  Consent   a signature on that list
    Proof             ->            enough signatures on it
                      <-  Unmasking one share for each survivor's own mask OR each dropped site's key
    Abandon           ->            an attempt that failed before its list
                      <-  Abandoned signed: this site will never sign a list of it

A site that does not act on a message answers `Refusal`, with the name of the check.  Keys and shares are bound to the run,
round, attempt and roster, not to the model: they may be fetched while the round before is still under way, with any of its
messages, which leaves three exchanges a round: Begin, Survivors, Proof.
"""

from dataclasses import dataclass, replace
from typing import Any

from fedvision.errors import AggregationRefused
from privacy.secure_aggregation import codec
from privacy.secure_aggregation.masks import Ring
from privacy.secure_aggregation.primitives import Identity, digest, verified

VERSION = 1


@dataclass(frozen=True)
class Session:
    """One attempt: keys and shares belong to it and to no other.  roster: fingerprint."""

    run: str
    round: int
    attempt: int
    roster: bytes


@dataclass(frozen=True)
class Terms:
    """What the sum is of.  model: SHA-256 of the weights that the sites start from.  layout: the run's `Layout.digest`.

    clip: largest norm of one site's update (0: none stated).  scale: of the fixed point.  rings: of the vector's parts.
    """

    model: bytes
    layout: str
    clip: float
    scale: float
    rings: tuple[Ring, ...]


@dataclass(frozen=True)
class Open:
    """Ask for keys."""

    session: Session
    version: int = VERSION


@dataclass(frozen=True)
class Keys:
    """A site's public keys for one attempt, and the least that it takes part for.

    threshold: fewest signatures and shares; 0: ⌊2n/3⌋ + 1 will do.  cohort: fewest sites in a sum and in any atom of sums.
    """

    session: Session
    site: str
    mask: bytes
    box: bytes
    threshold: int
    cohort: int
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class KeyList:
    """Everybody's keys, in the order of the sites' names."""

    session: Session
    keys: tuple[Keys, ...]
    version: int = VERSION


@dataclass(frozen=True)
class Box:
    """The shares for one holder: sealed, and the digests that the opened ones must have."""

    holder: str
    sealed: bytes
    seed_digest: bytes
    key_digest: bytes


@dataclass(frozen=True)
class Shares:
    """A site's two secrets in shares.  transcript: of the keys.  seed: digest of the site's own seed."""

    session: Session
    site: str
    transcript: bytes
    seed: bytes
    boxes: tuple[Box, ...]
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Delivery:
    """A box as its holder gets it."""

    dealer: str
    sealed: bytes


@dataclass(frozen=True)
class Consent:
    """A site's signature on a survivor list.  list: `list_digest`."""

    session: Session
    site: str
    list: bytes
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Abandoned:
    """A site's word that it has signed no list of this attempt and never will."""

    session: Session
    site: str
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Released:
    """An earlier attempt whose list enough sites have signed: its sum may be known."""

    session: Session
    transcript: bytes
    alive: tuple[str, ...]
    dropped: tuple[str, ...]
    consents: tuple[Consent, ...]


@dataclass(frozen=True)
class Voided:
    """An earlier attempt that enough sites have abandoned: its sum can never be known."""

    session: Session
    statements: tuple[Abandoned, ...]


Outcome = Released | Voided


@dataclass(frozen=True)
class Begin:
    """Train, mask and send.  cohort: the sites whose shares are dealt; deliveries: the boxes for this site."""

    session: Session
    terms: Terms
    cohort: tuple[str, ...]
    history: tuple[Released | Voided, ...]
    deliveries: tuple[Delivery, ...]
    version: int = VERSION


@dataclass(frozen=True)
class Masked:
    """A site's vector under masks.  body: the packed rings, one after the other; the signature is over its digest."""

    session: Session
    site: str
    transcript: bytes
    body: bytes
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Survivors:
    """Who has sent a masked vector, and who of the cohort has not."""

    session: Session
    alive: tuple[str, ...]
    dropped: tuple[str, ...]
    version: int = VERSION


@dataclass(frozen=True)
class Proof:
    """The survivor list with enough signatures on it."""

    session: Session
    alive: tuple[str, ...]
    dropped: tuple[str, ...]
    consents: tuple[Consent, ...]
    version: int = VERSION


@dataclass(frozen=True)
class Share:
    """One revealed share."""

    dealer: str
    value: bytes


@dataclass(frozen=True)
class Unmasking:
    """What a site reveals: seeds of survivors, keys of dropped sites; of no site both."""

    session: Session
    site: str
    list: bytes
    seeds: tuple[Share, ...]
    keys: tuple[Share, ...]
    signature: bytes = b""
    version: int = VERSION


@dataclass(frozen=True)
class Abandon:
    """The attempt has failed before a list was signed: erase it."""

    session: Session
    version: int = VERSION


@dataclass(frozen=True)
class Refusal:
    """A site does not act.  check: a name in `checks.CHECKS`."""

    session: Session
    site: str
    check: str
    reason: str
    version: int = VERSION


Signed = Keys | Shares | Masked | Consent | Abandoned | Unmasking
ToSite = Open | KeyList | Begin | Survivors | Proof | Abandon
ToCoordinator = Signed | Refusal
Message = ToSite | ToCoordinator
TYPES: tuple[type, ...] = (
    Open, Keys, KeyList, Shares, Begin, Masked, Survivors, Consent, Proof, Unmasking, Abandon, Abandoned, Refusal,
)  # fmt: skip


def to_bytes(message: Message) -> bytes:
    """A message as it travels: its type's number, then its encoding."""
    return b"".join((bytes([TYPES.index(type(message))]), *codec.pieces(message)))


def from_bytes(content: bytes) -> Any:
    """The message in `content`; AggregationRefused ("malformed" or "version") where there is none that is understood."""
    if not content or content[0] >= len(TYPES):
        raise AggregationRefused("malformed", "not a message of secure aggregation")
    message = codec.decode(TYPES[content[0]], content[1:])
    if message.version != VERSION:
        raise AggregationRefused("version", f"a message of version {message.version}, and this side speaks {VERSION}")
    return message


def _signed_part(message: Signed) -> bytes:
    if isinstance(message, Masked):  # the body may be long: its digest stands for it
        return _tagged(replace(message, body=digest(b"body", message.body), signature=b""))
    return _tagged(replace(message, signature=b""))


def _tagged(message: Signed) -> bytes:
    return digest(b"signature", type(message).__name__.encode(), codec.encode(message))


def sign(message: Any, identity: Identity) -> Any:
    """`message` with its site's signature."""
    return replace(message, signature=identity.sign(_signed_part(message)))


def signed_by(message: Signed, public: bytes) -> bool:
    """Whether the message's signature is `public`'s."""
    return verified(public, message.signature, _signed_part(message))


def keys_transcript(listed: KeyList) -> bytes:
    """What the boxes are bound to: run, round, attempt, roster, every key and every site's minima."""
    return digest(b"keys", codec.encode(listed))


def masks_transcript(keys: bytes, begin: Begin, threshold: int, minimum: int) -> bytes:
    """What the masks are bound to: the keys' transcript, model, layout, clip, scale, rings, cohort, history, thresholds."""
    return digest(b"masks", keys, threshold.to_bytes(8), minimum.to_bytes(8), codec.encode(replace(begin, deliveries=())))


def list_digest(transcript: bytes, alive: tuple[str, ...], dropped: tuple[str, ...]) -> bytes:
    """What a consent is to: this transcript's sum over `alive`."""
    return digest(b"list", transcript, *(name.encode() for name in alive), b"dropped", *(name.encode() for name in dropped))


def seed_digest(session: Session, site: str, seed: bytes) -> bytes:
    """The commitment to a site's seed."""
    return digest(b"seed", codec.encode(session), site.encode(), seed)


def share_digest(session: Session, dealer: str, holder: str, value: bytes) -> bytes:
    """The commitment to one share; a share is as hard to guess as the secret."""
    return digest(b"share", codec.encode(session), dealer.encode(), holder.encode(), value)
