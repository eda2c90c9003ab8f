"""`fedvision privacy identity` and `roster`: who belongs to a federation, made and signed by people, pinned at each site."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from privacy.secure_aggregation.roster import Roster, SignedRoster

identities = typer.Typer(no_args_is_help=True, help="Keys that sign: of a site, or of a consortium.")
rosters = typer.Typer(no_args_is_help=True, help="Who belongs to a federation: signed by people, pinned at each site.")

Json = Annotated[bool, typer.Option("--json", help="One object on the last line of stdout.")]
Key = Annotated[Path, typer.Argument(metavar="FILE", help="The file of the key; a site's is FOLDER/identity.key.")]
File = Annotated[Path, typer.Argument(metavar="ROSTER", help="The file of a roster.")]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The site's own folder.")]


@identities.command("new", epilog="Example: fedvision privacy identity new /srv/fedvision/identity.key")
def new_identity(path: Key, as_json: Json = False) -> None:
    """Make a key that nobody but its owner can read, and print its public half."""
    from privacy.membership import new_identity as make

    _key(make(path).public, as_json)


@identities.command("show", epilog="Example: fedvision privacy identity show /srv/fedvision/identity.key")
def show_identity(path: Key, as_json: Json = False) -> None:
    """Print the public half of a key: what others know its owner by."""
    from privacy.membership import read_identity

    _key(read_identity(path).public, as_json)


def _key(public: bytes, as_json: bool) -> None:
    print(json.dumps({"public": public.hex()}) if as_json else public.hex())


@rosters.command(
    epilog="Example: fedvision privacy roster make roster.json --federation lungs --site north=KEY --site south=KEY --site west=KEY --authority KEY"
)
def make(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, unsigned.")],
    federation: Annotated[str | None, typer.Option(help="The federation's name; not with --after.")] = None,
    site: Annotated[list[str], typer.Option(metavar="NAME=KEY", help="A site and its public key; may be repeated.")] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option(metavar="NAME", help="A site to leave out, with --after; may be repeated.")] = [],  # noqa: B006
    authority: Annotated[list[str], typer.Option(metavar="KEY", help="A public key that signs rosters: the consortium's, or sites'.")] = [],  # noqa: B006
    quorum: Annotated[int | None, typer.Option(help="How many of the authorities must sign; default 1, or as before.")] = None,
    after: Annotated[Path | None, typer.Option(metavar="ROSTER", help="The roster that this one follows, as its next version.")] = None,
) -> None:
    """Write a roster, to be signed.  Nobody goes by it before enough authorities have signed it and a site has approved it."""
    from fedvision.errors import ConfigError
    from fedvision.tracking.folder import write_atomically
    from privacy.membership import read_roster, roster_text
    from privacy.secure_aggregation.roster import Roster, SignedRoster, well_formed

    old = None if after is None else read_roster(after).roster
    if (old is None) == (federation is None):
        raise ConfigError("--federation and --after: give one of them, a name for a first roster or the file of the one before")
    members = _members(old, site, remove)
    keys = tuple(_public(text, "--authority") for text in authority) or (old.authorities if old is not None else ())
    needed = quorum if quorum is not None else old.quorum if old is not None else 1
    roster = Roster(federation or (old.federation if old is not None else ""), 1 if old is None else old.version + 1, members, keys, needed)
    if not well_formed(roster):
        raise ConfigError(
            f"--site, --authority, --quorum: {len(members)} sites with {len({m.key for m in members})} keys, {len(set(keys))} authorities and a quorum "
            f"of {needed}: each key once, and a quorum of 1 to the number of authorities"
        )
    write_atomically(out, roster_text(SignedRoster(roster, ())))
    _told(roster, False)


def _members(old: "Roster | None", added: list[str], removed: list[str]) -> tuple[Any, ...]:
    from fedvision.errors import ConfigError
    from privacy.secure_aggregation.roster import Member

    known = {} if old is None else old.keys
    for name in removed:
        if known.pop(name, None) is None:
            raise ConfigError(
                f"--remove {name}: it is not in the roster before, which has {', '.join(old.keys) if old is not None else 'none'}"
            )
    for text in added:
        name, _, key = text.rpartition("=")
        if not name:
            raise ConfigError(f"--site {text!r}: write it as a name and a public key, NAME=KEY")
        known[name] = _public(key, f"--site {name}")
    return tuple(Member(name, key) for name, key in sorted(known.items()))


def _public(text: str, option: str) -> bytes:
    from fedvision.errors import ConfigError
    from privacy.ledger.keys import is_key

    if not is_key(text):
        raise ConfigError(
            f"{option}: {text[:80]!r} is no public key, which is 64 hexadecimal digits as `fedvision privacy identity show` prints them"
        )
    return bytes.fromhex(text)


@rosters.command(epilog="Example: fedvision privacy roster sign roster.json consortium.key")
def sign(path: File, key: Annotated[Path, typer.Argument(metavar="KEY", help="The file of the authority's key.")]) -> None:
    """Add an authority's signature to a roster, on the authority's own machine."""
    from fedvision.tracking.folder import write_atomically
    from privacy.membership import read_identity, read_roster, roster_text, signed_by

    signed = signed_by(read_roster(path), read_identity(key))
    write_atomically(path, roster_text(signed))
    _told(signed.roster, False, signed)


@rosters.command(epilog="Example: fedvision privacy roster show roster.json")
def show(
    path: Annotated[Path, typer.Argument(metavar="ROSTER|FOLDER", help="The file of a roster, or a site's folder.")], as_json: Json = False
) -> None:
    """What a roster says and its fingerprint, or what a site has pinned."""
    from privacy.membership import Membership, read_roster

    if path.is_dir():
        member = Membership.read(path)
        p = member.pinned
        own = {
            "site": member.site, "minimum_cohort": p.minimum_cohort, "threshold": member.threshold, "allow_additions": p.allow_additions,
            "approved": sorted(f.hex() for f in p.approved),
        }  # fmt: skip
        _told(p.roster, as_json, None, own)
        return
    signed = read_roster(path)
    _told(signed.roster, as_json, signed)


def _told(roster: "Roster", as_json: bool, signed: "SignedRoster | None" = None, own: dict[str, Any] | None = None) -> None:
    from privacy.secure_aggregation.roster import endorsers

    by = {} if signed is None else {"signed_by": sorted(key.hex() for key in endorsers(signed))}
    said = {
        "federation": roster.federation, "version": roster.version, "fingerprint": roster.fingerprint.hex(), "quorum": roster.quorum,
        "authorities": [key.hex() for key in roster.authorities], "sites": {m.site: m.key.hex() for m in roster.members}, **by, **(own or {}),
    }  # fmt: skip
    if as_json:
        print(json.dumps(said))
        return
    print(
        f"{roster.federation}, version {roster.version}: {len(roster.members)} sites, {roster.quorum} of {len(roster.authorities)} authorities sign"
    )
    for member in roster.members:
        print(f"  {member.site}  {member.key.hex()}")
    for key in roster.authorities:
        print(f"  authority {key.hex()}" + (" has signed" if by and key.hex() in by["signed_by"] else ""))
    for name in own or {}:
        print(f"  {name.replace('_', ' ')}: {(own or {})[name]}")
    print(f"fingerprint: {roster.fingerprint.hex()}")


@rosters.command(epilog="Example: fedvision privacy roster pin /srv/fedvision roster.json --fingerprint 5f3a...")
def pin(
    folder: Folder,
    path: File,
    fingerprint: Annotated[str, typer.Option(help="Of the roster, as the consortium's people told it: not by the coordinator's way.")],
    minimum_cohort: Annotated[int, typer.Option(min=2, help="Fewest sites that this site lets its update be summed with.")] = 3,
    threshold: Annotated[
        int, typer.Option(min=0, help="Fewest signatures on a list of survivors that it asks for; 0 = floor(2n/3) + 1.")
    ] = 0,
    allow_additions: Annotated[
        bool, typer.Option("--allow-additions", help="Take newer rosters that only add sites without approval.")
    ] = False,
) -> None:
    """Join: from now on this site goes by this roster, and by its successors that it approves."""
    from privacy.membership import Membership, fingerprints, read_roster

    (wanted,) = fingerprints([fingerprint])
    member = Membership.join(folder, read_roster(path), wanted, minimum_cohort, threshold, allow_additions)
    print(f"{folder}: site {member.site} goes by roster {member.pinned.roster.version} of {member.pinned.roster.federation}")


@rosters.command(epilog="Example: fedvision privacy roster approve /srv/fedvision 5f3a...")
def approve(folder: Folder, fingerprint: Annotated[str, typer.Argument(help="Of the newer roster.")]) -> None:
    """The site's people agree to a newer roster, which takes effect when it is adopted."""
    from privacy.membership import Membership, fingerprints

    (agreed,) = fingerprints([fingerprint])
    Membership.read(folder).approve(agreed)
    print(f"{folder}: approved {agreed.hex()}")


@rosters.command(epilog="Example: fedvision privacy roster adopt /srv/fedvision roster-2.json")
def adopt(folder: Folder, path: File) -> None:
    """Go by a newer roster: signed by the pinned authorities, of a higher version, approved, and with enough of the sites known so far."""
    from privacy.membership import Membership, read_roster

    member = Membership.read(folder)
    member.adopt(read_roster(path))
    print(f"{folder}: site {member.site} goes by roster {member.pinned.roster.version} of {member.pinned.roster.federation}")


@rosters.command(epilog="Example: fedvision privacy roster ledger roster.json --run lungs-7 --coordinator KEY --out lungs-7.json")
def ledger(
    path: File,
    run: Annotated[str, typer.Option(help="The run's name.")],
    coordinator: Annotated[str, typer.Option(metavar="KEY", help="The coordinator's public key.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write the public keys of a run of this roster's sites, as `fedvision privacy verify --roster` takes them."""
    from fedvision.errors import ConfigError
    from fedvision.tracking.folder import write_atomically
    from privacy.ledger.keys import Roster as LedgerRoster
    from privacy.membership import read_roster
    from privacy.secure_aggregation.roster import endorsers

    signed = read_roster(path)
    roster, count = signed.roster, len(endorsers(signed))
    if count < roster.quorum:
        raise ConfigError(f"{path}: signed by {count} of its authorities, and {roster.quorum} are needed: fedvision privacy roster sign")
    keys = {m.site: m.key.hex() for m in roster.members}
    write_atomically(out, LedgerRoster(run, _public(coordinator, "--coordinator").hex(), keys).written())
    print(f"{out}: check the run with: fedvision privacy verify RUN --roster {out}")
