"""How many neighbours a site draws, and how many shares rebuild a secret: computed for stated numbers, not folklore.

Up to `FULL` sites everybody is everybody's neighbour and n, t are those of the cohort.  Above, each site draws k of the
n − 1 others from the operating system and deals its shares to them and itself; two sites share a mask if either drew the
other.  Nobody but the site has a say in its draw, so the colluding sites among its holders are hypergeometric, whatever the
coordinator does.  After Bell et al. 2020, with two differences: draws of the sites' own, and survivor lists that ⌊2n/3⌋ + 1
of ALL sites sign.  With c colluding sites and the coordinator on their side, each but for 2^-40:

    shares     no site has t_k or more colluders among its holders: they alone rebuild neither secret
    one sum    the coordinator may call any n − t sites dropped AFTER it has seen the draws.  A survivor's own mask comes
               off only if t_k holders answer, and only survivors answer: so it has m = t_k − c_k − 1 or more honest
               survivors among its neighbours.  That the honest survivors (h = t − c or more) fall into S and T without a
               mask between them has a chance below
                   Σ_s C(n−c, s) C(n−c−s, h−s) · [P(no draw in T, m or more in S)]^s · [P(no draw in S)]^(h−s)
    liveness   if d sites drop out by chance, each keeps t_k holders, but for 2^-20
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

FULL = 64  # sites up to which the graph is full
COLLUDING = 0.2  # of the sites, what the degrees are computed for
DROPPING = 0.1  # of the sites, by chance
SECURITY, LIVENESS = -40.0, -20.0  # log2 of what may go wrong


@dataclass(frozen=True)
class Neighbourhood:
    """degree: sites that each draws.  threshold: shares, of degree + 1, that rebuild a secret.  in_degree: most that may
    draw one site.  colluders: most among a site's holders.  inside: m.  log2_split: bound on falling into two sums."""

    degree: int
    threshold: int
    in_degree: int
    colluders: int
    inside: int
    log2_split: float


def least_threshold(sites: int) -> int:
    """⌊2n/3⌋ + 1: two lists signed by so many have more than n/3 signers in common."""
    return 2 * sites // 3 + 1


def most_colluders(sites: int, threshold: int) -> int:
    """2t − n − 1: with so many or fewer on its side, a coordinator gets one list signed and not two."""
    return 2 * threshold - sites - 1


@lru_cache(maxsize=64)
def neighbourhood(sites: int, threshold: int) -> Neighbourhood:
    """The degrees for a cohort; the smallest k whose bounds hold, the full graph where there is none or n is small."""
    colluding, dropping = int(sites * COLLUDING), math.ceil(sites * DROPPING)
    if sites > FULL:
        for degree in range(8, sites // 2, 2):
            found = _sound(sites, threshold, colluding, dropping, degree)
            if found is not None:
                return found
    return Neighbourhood(sites - 1, threshold, sites - 1, most_colluders(sites, threshold), threshold - 1, -math.inf)


def _sound(n: int, t: int, c: int, d: int, k: int) -> Neighbourhood | None:
    per_site = -math.log2(n)
    colluders = _quantile(n - 1, c, k, SECURITY + per_site)
    lost = _quantile(n - 1, d, k, LIVENESS + per_site)
    t_k = k + 1 - lost
    inside = t_k - colluders - 1
    if inside < 1:
        return None
    split = log2_split(n, t, c, k, inside)
    if split > SECURITY:
        return None
    chosen = _quantile_binomial(n - 1, k / (n - 1), SECURITY + per_site)
    return Neighbourhood(k, t_k, min(chosen + c, n - 1), colluders, inside, split)


def log2_split(n: int, t: int, c: int, k: int, inside: int) -> float:
    """log2 of the bound on two sums (module docstring).  Halves larger than h/2 are counted at h/2, without `inside`."""
    h, terms = t - c, []
    for s in range(inside + 1, h // 2 + 1):
        rest = h - s
        apart = _choose(n - 1 - rest, k) - _choose(n - 1, k)
        within = 0.0 if s == h // 2 else log2_tail(n - 1 - rest, s - 1, k, inside)
        back = _choose(n - 1 - s, k) - _choose(n - 1, k)
        terms.append(_choose(n - c, s) + _choose(n - c - s, rest) + s * (apart + within) + rest * back)
    return _add(terms)


def log2_tail(total: int, marked: int, draws: int, least: int) -> float:
    """log2 of the chance that `draws` of `total` contain `least` or more of the `marked` (hypergeometric)."""
    if least <= 0:
        return 0.0
    return _add(
        [_choose(marked, i) + _choose(total - marked, draws - i) - _choose(total, draws) for i in range(least, min(marked, draws) + 1)]
    )


def _quantile(total: int, marked: int, draws: int, log2_chance: float) -> int:
    """The largest number of marked ones among the draws that is not rarer than the chance."""
    return next(i for i in range(min(marked, draws) + 1) if log2_tail(total, marked, draws, i + 1) <= log2_chance)


def _quantile_binomial(draws: int, chance: float, log2_chance: float) -> int:
    terms = [_choose(draws, i) + i * math.log2(chance) + (draws - i) * math.log2(1 - chance) for i in range(draws + 1)]
    return next(i for i in range(draws + 1) if _add(terms[i + 1 :]) <= log2_chance)


def _choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)


def _add(logarithms: Sequence[float]) -> float:
    """log2 of the sum of numbers given by their log2."""
    top = max(logarithms, default=-math.inf)
    return top if top == -math.inf else top + math.log2(sum(2.0 ** (value - top) for value in logarithms))


def draw(site: str, others: Sequence[str], degree: int) -> tuple[str, ...]:
    """The holders of a site's shares, in the order of their names: `degree` of the others by the system's chance, and itself."""
    chosen = others if degree >= len(others) else secrets.SystemRandom().sample(list(others), degree)
    return tuple(sorted((*chosen, site)))
