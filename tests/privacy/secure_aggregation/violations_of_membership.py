"""Lies about who takes part: rosters, strangers, and graphs that the coordinator would choose."""

from dataclasses import replace

from secagg_federation import Federation, resigned
from secagg_violations import Violations

from privacy.secure_aggregation import Identity, Member, Pinned, Roster, endorse
from privacy.secure_aggregation.graph import neighbourhood
from privacy.secure_aggregation.messages import Abandoned, Begin, Delivery, Open, Voided, sign
from privacy.secure_aggregation.store import Memory

violation = Violations()


# ------------------------------------------------------------------------------------------------------------ the roster


@violation("roster")
def a_session_under_another_roster():
    f = Federation(4)
    return f.tell("a", Open(replace(f.session(), roster=b"r" * 32)))


@violation("roster")
def a_roster_at_joining_whose_fingerprint_is_another():
    f = Federation(4)
    return Pinned.join(endorse(f.roster, [f.authority]), b"r" * 32, 3)


def newer(f: Federation, version: int = 2, drop: str = "", add: int = 1, signer: Identity | None = None, approve: bool = True) -> object:
    """What site "a" makes of a roster without the sites of `drop`, with `add` new ones."""
    members = [m for m in f.roster.members if m.site not in drop] + [Member(f"x{i:02}", Identity.fresh().public) for i in range(add)]
    roster = Roster(f.roster.federation, version, tuple(members), f.roster.authorities, 1)
    pinned = f.sites["a"].pinned
    if approve:
        pinned.approve(roster.fingerprint)
    pinned.adopt(endorse(roster, [signer or f.authority]))
    return pinned


@violation("roster_signature")
def a_roster_that_the_coordinator_signed_itself():
    return newer(Federation(4), signer=Identity.fresh())


@violation("roster_signature")
def a_roster_under_an_authoritys_name_that_it_has_not_signed():
    f = Federation(4)
    roster = replace(f.roster, version=2)
    signed = endorse(roster, [Identity.fresh()])
    f.sites["a"].pinned.approve(roster.fingerprint)
    return f.sites["a"].pinned.adopt(replace(signed, endorsements=(replace(signed.endorsements[0], authority=f.authority.public),)))


@violation("roster_version")
def an_older_roster():
    return newer(Federation(4), version=1)


@violation("roster_shrinks")
def a_roster_of_strangers_around_one_site():
    return newer(Federation(10), drop="cdefghij", add=20)


@violation("roster_shrinks")
def a_roster_with_the_same_names_and_other_keys():
    f = Federation(4)
    members = tuple(m if m.site == "a" else replace(m, key=Identity.fresh().public) for m in f.roster.members)
    roster = replace(f.roster, version=2, members=members)
    f.sites["a"].pinned.approve(roster.fingerprint)
    return f.sites["a"].pinned.adopt(endorse(roster, [f.authority]))


@violation("not_approved")
def a_newer_roster_that_nobody_at_the_site_approved():
    return newer(Federation(4), approve=False)


@violation("not_approved")
def a_rule_for_additions_stretched_to_a_removal():
    f = Federation(5)
    f.sites["a"].pinned.allow_additions = True
    return newer(f, drop="b", approve=False)


@violation("not_approved")
def a_rule_for_additions_stretched_to_other_authorities():
    f = Federation(5)
    pinned = f.sites["a"].pinned
    pinned.allow_additions = True
    return pinned.adopt(endorse(replace(f.roster, version=2, authorities=(Identity.fresh().public,)), [f.authority]))


@violation("stranger")
def a_site_beyond_the_roster_among_the_keys():
    f = Federation(4)
    keys = f.run(f.attempt(), until="keys").list_keys()
    stranger = resigned(keys.keys[-1], f, "d", site="z")
    return f.tell("a", replace(keys, keys=(*keys.keys, stranger)))


@violation("stranger")
def a_site_in_the_cohort_that_is_not_among_the_keys():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"e": "keys"}, until="shares")
    begin = attempt.begins(f.terms())["a"]
    return f.tell("a", replace(begin, cohort=(*begin.cohort, "e")))


@violation("stranger")
def a_box_from_a_site_that_is_not_in_the_cohort():
    f = Federation(5)
    attempt = f.run(f.attempt(), {"e": "shares"}, until="shares")
    begin = attempt.begins(f.terms())["a"]
    box = next(box for box in f.tell("e", attempt.list_keys()).boxes if box.holder == "a")
    return f.tell("a", replace(begin, deliveries=(*begin.deliveries, Delivery("e", box.sealed))))


@violation("stranger")
def a_roster_that_gives_known_sites_second_names():
    """The lists of a round before and after it, over the same site under two names, would seem to have nothing in common."""
    f = Federation(6)
    members = tuple(replace(m, site=m.site if m.site in "abc" else f"x{m.site}") for m in f.roster.members)
    roster = replace(f.roster, version=2, members=members)
    f.sites["a"].pinned.approve(roster.fingerprint)
    return f.sites["a"].pinned.adopt(endorse(roster, [f.authority]))


@violation("history")
def words_of_keys_that_came_later_on_an_attempt_of_an_older_roster():
    """Enough sites were given new keys; whoever holds those says that an attempt was abandoned whose list was signed."""
    f = Federation(10)
    first = f.run(f.attempt(), until="consent")
    f.identities |= {n: Identity.fresh() for n in "defghij"}
    f.succeed(tuple(Member(n, f.identities[n].public) for n in f.names), by="abc")
    for n in "defghij":
        f.stores[n] = Memory()
        f.sites[n] = f.make(n)
    words = tuple(sign(Abandoned(first.session, n), f.identities[n]) for n in f.names if n not in "abc")
    second = f.run(f.attempt(f.session(attempt=2)), until="shares")
    return f.tell("a", second.begins(f.terms(), [Voided(first.session, words)])["a"])


# ------------------------------------------------------------------------------------------------------ the drawn graph


def large() -> tuple[Federation, object]:
    f = Federation(80)
    attempt = f.run(f.attempt(), until="keys")
    attempt.take(f.tell("s0000", attempt.list_keys()))
    return f, attempt


@violation("in_degree")
def more_sites_that_drew_this_one_than_chance_explains():
    f, _ = large()
    assert neighbourhood(80, 54).in_degree < 79
    boxes = tuple(Delivery(name, b"") for name in f.names[1:])
    return f.tell("s0000", Begin(f.session(), f.terms(), tuple(f.names), (), boxes))


@violation("few_neighbours")
def a_cohort_without_the_neighbours_that_the_site_drew():
    f, attempt = large()
    drawn = [box.holder for box in attempt.shares["s0000"].boxes if box.holder != "s0000"]
    cohort = tuple(n for n in f.names if n not in drawn[:26])
    assert len(cohort) >= attempt.thresholds.survivors
    return f.tell("s0000", Begin(f.session(), f.terms(), cohort, (), ()))
