"""Every check by which a site does not act on a message: its name, and what it stands against."""

from fedvision.errors import AggregationRefused

CHECKS: dict[str, str] = {
    "version": "a message of another version",
    "malformed": "bytes that are no message, or whose lists are not in order, doubled or of the wrong length",
    "order": "a message before the one that it follows, or for an attempt that is erased or was never opened",
    "round_back": "a round or attempt that is not after the last one in which this site sent a vector",
    "roster": "a roster that this site has not pinned",
    "roster_signature": "a roster that too few of the pinned authorities have signed",
    "roster_version": "a roster older than the pinned one",
    "roster_shrinks": "a roster that leaves fewer of the known sites than this site's minimum cohort",
    "not_approved": "a newer roster that neither this site's approval nor its rule covers",
    "stranger": "a site beyond the roster, or a known one under a second name",
    "key_signature": "keys that their site has not signed, for this run, round, attempt and roster",
    "own_keys": "a list of keys in which this site's own are missing or others",
    "small_order": "a public key whose shared secret anybody knows",
    "threshold": "a cohort that cannot hold the largest threshold or minimum cohort that its sites ask for",
    "second_key_list": "another list of keys in the same attempt",
    "second_begin": "another model, cohort or history in the same attempt",
    "terms": "another model, layout, clip, scale or ring than the site itself has computed",
    "in_degree": "more sites that chose this one as a neighbour than chance explains",
    "few_neighbours": "a cohort that lacks more of this site's own neighbours than may drop out",
    "history": "an earlier attempt in which this site sent a vector, without proof of how it ended",
    "partition": "a survivor list in which a site is both alive and dropped, neither, or beyond the cohort",
    "few_survivors": "a survivor list with fewer sites than the threshold or the minimum cohort",
    "not_alive": "a survivor list in which this site itself is dropped",
    "atoms": "a list that, with the lists before it, isolates fewer sites than the minimum cohort",
    "second_list": "another survivor list in the same attempt",
    "few_consents": "a survivor list that too few sites of the cohort have signed",
}


def require(check: str, holds: bool, reason: str) -> None:
    """Raise AggregationRefused by the name of `check` unless it holds."""
    if not holds:
        raise AggregationRefused(check, reason)
