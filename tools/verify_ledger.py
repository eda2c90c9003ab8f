"""An independent verifier of a run's ledgers, from docs/ledger.md alone: python tools/verify_ledger.py RUN ROSTER [HEAD]; exit 0, or 1 and why."""

import hashlib
import json
import re
import sys
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, pld, rdp
from dp_accounting import NeighboringRelation as Relation
from opacus.accountants import PRVAccountant

SHAPE = re.compile(rb'\{"body":(\{.*\}),"sig":"([0-9a-f]{128})"\}\n', re.DOTALL)
NUMBERS = ["noise_multiplier", "sampling_rate", "steps", "relation"]
EVENT = [*NUMBERS, "mechanism", "clip", "divisor", "sampler", "unit", "delta"]
AGREED = [*EVENT, "rounds", "sites_per_unit", "once_a_round", "repeatable", "whole_plan", "orders", "config"]
RELATIONS = {"add_remove": Relation.ADD_OR_REMOVE_ONE, "replace_one": Relation.REPLACE_ONE, "zero_out": Relation.REPLACE_SPECIAL}
INTEGERS, FLOATS = "version seq round attempt steps rounds new charge sites_per_unit", "noise_multiplier clip sampling_rate delta epsilon"
OTHERS = {bool: "once_a_round repeatable whole_plan", str: "request model mechanism sampler unit relation", list: "orders rdp heads sites"}
KINDS = {name: kind for kind, names in {int: INTEGERS, float: FLOATS, **OTHERS}.items() for name in names.split()}
ZEROS, SAMPLER = "0" * 64, ["poisson", "all"]


class Fault(SystemExit):
    """The first thing that is wrong; uncaught, it is said and the exit code is 1."""


def need(true, why):
    if not true:
        raise Fault(why)


def near(figure, wanted):
    return type(figure) is float and abs(figure - wanted) <= 1e-3 * wanted


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def composed(account, sigma, rate, steps):
    return account.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)) if rate < 1 else GaussianDpEvent(sigma), steps)


@lru_cache(None)
def rho(sigma, rate, steps, relation, orders):  # section 5.1
    need(0.01 <= sigma <= 1e9 and 0 < rate <= 1 <= steps <= 1e9 and all(type(a) is float and a > 1 for a in orders), "no event")
    twice, halved = relation == "replace_one" and rate < 1, relation == "replace_one" and rate == 1
    found = np.array(composed(rdp.RdpAccountant([2 * a if twice else a for a in orders]), sigma / (1 + halved), rate, steps).rdp)
    return np.where(np.array(orders) >= 2, 3 * found, np.inf) if twice else found


@lru_cache(None)
def pld_and_prv(sigma, rate, steps, relation, delta, prv):  # sections 5.3 and 5.4; prv: whether that is asked too
    rough = composed(rdp.RdpAccountant(), max(sigma / 2, 0.01) if relation == "replace_one" else sigma, rate, steps).get_epsilon(delta)
    found = composed(pld.PLDAccountant(RELATIONS[relation], 1e-4 * max(1.0, rough / 60)), sigma, rate, steps).get_epsilon(delta)
    try:
        (other := PRVAccountant()).history = [(sigma, rate, steps)]
        return found, max(0.0, other.get_epsilon(delta)) if prv else None
    except (RuntimeError, ValueError):
        return found, None


class Plan:  # section 3, and the figures of section 5 that follow from it
    def __init__(self, body, run, key, alone):  # alone: counts of charges whose PLD figure prv was not asked about
        self.body, self.numbers = body | {n: body[n] for n in AGREED}, [body[n] for n in NUMBERS]
        need((body["kind"], body["version"], body["run"], body["key"]) == ("plan", 1, run, key), "another's plan")
        self.rho, counts = rho(*self.numbers, tuple(body["orders"])), [count for count, _ in body["pld"]]
        need(counts == sorted({*counts}) and counts[-1] == body["rounds"], "no plan")
        need(np.isfinite(self.rho).all() and body["sampler"] == SAMPLER[body["sampling_rate"] == 1], "no event")
        need(near(body["epsilon"], self.epsilon(body["rounds"])), "its epsilon is wrong")
        self.alone, self.most = alone, body["rounds"] if body.get("limit") is None else min(body["rounds"], self.held(body["limit"]))
        need(all(self.holds(*row) for row in body["pld"]), "its PLD figures are wrong")

    def held(self, limit):  # charges that the site's account lets this run have
        a, w, delta = np.array(limit["orders"]), np.array(limit["shares"]), limit["delta"]
        said = limit.keys() == {"delta", "epsilon", "noise_multiplier", "orders", "relation", "shares"} and limit["relation"] in RELATIONS
        need(said and min(a) > 1 and min(w) > 0 and sum(w) < 1 + 1e-9 and 0 < delta < 1, "it states no limit")
        room = limit["epsilon"] * (1 + 1e-6) - np.log1p(-1 / a) + np.log(w * delta * a) / (a - 1)
        return max(0, int((room // rho(limit["noise_multiplier"], *self.numbers[1:3], limit["relation"], (*limit["orders"],))).max()))

    def epsilon(self, count):
        a, delta = np.array(self.body["orders"]), self.body["delta"]
        return max(0.0, float((count * self.rho + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)).min())) if count else 0.0

    def holds(self, count, figure):  # a PLD figure, by its own accountant and by the others
        (sigma, rate, steps, relation), above = self.numbers, self.epsilon(count)
        numbers = sigma, rate, steps * count, relation, self.body["delta"], relation == "add_remove" and above <= 20
        found, prv = pld_and_prv(*numbers) if count else (0.0, 0.0)
        self.alone |= {count} if prv is None else set()
        return near(figure, found) and found <= 1.001 * above + 1e-3 and (prv is None or found - 1e-3 <= prv <= found + 0.021)


class Run:  # a folder's chains, entry by entry: sections 6 to 8
    def __init__(self, folder, roster):
        self.folder, self.roster, self.sites, self.alone = folder, roster, set(roster["sites"]), set()
        self.plan, self.closed, self.sent, self.receipts, self.heads, self.last, self.hashes = None, False, {}, [], {}, ZEROS, set()

    def walk(self, file, public, take):  # section 2: `take` each entry that is canonical, signed and in its place
        key, prev, self.own, self.ended = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)), ZEROS, [], False
        lines = (self.folder / file).read_bytes().splitlines(keepends=True) if (self.folder / file).is_file() else []
        for number, line in enumerate(lines or [b""]):
            try:
                need((found := SHAPE.fullmatch(line)) and len(line) <= (1 << 20) + 1, "missing, torn, or no signed entry")
                key.verify(bytes.fromhex(found[2].decode()), b"fedvision ledger 1\n" + found[1])
                body = json.loads(found[1])
                need(canonical(body) == found[1] and (body["seq"], body["prev"], self.ended) == (number, prev, False), "out of place")
                need(all(type(v) is KINDS.get(n, type(v)) or (v is None and body["kind"] == "charge") for n, v in body.items()), "kinds")
                self.own.append(prev := hashlib.sha256(line[:-1]).hexdigest())
                take(number, prev, body)
            except (Fault, InvalidSignature, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
                raise Fault(f"{file}, line {number + 1}: {str(error) or 'its signature is wrong'}") from None
        self.hashes.update(self.own)

    def root(self, heads):  # section 4
        level = [hashlib.sha256(b"\0" + canonical([site, *heads[site]])).digest() for site in sorted(heads)]
        while len(level) > 1:
            pairs = [hashlib.sha256(b"\1" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
            level = pairs + level[len(level) // 2 * 2 :]
        return level[0].hex() if level else ZEROS

    def coordinator(self, number, hash, body):
        kind, where = body["kind"], (body.get("round"), body.get("attempt"))
        if self.plan is None:
            self.plan = Plan(body, self.roster["run"], self.roster["coordinator"], self.alone)
            need(body["sites"] == sorted(self.sites), "other sites than the roster's")
        elif kind == "request":
            need(where not in self.sent and body["witness"] == self.last, "sent twice, or with another witness")
            need(("sites" in body) != self.plan.body["whole_plan"] and set(body.get("sites", [])) <= self.sites, "sent to whom?")
            self.sent[body["round"], body["attempt"]] = body | {n: body[n] for n in ("request", "model")}
        else:
            names, asked = [row[0] for row in body["heads"]], set(self.sent[where].get("sites", [])) if kind == "receipts" else self.sites
            need(kind in ("joined", "receipts", "end") and names == sorted(set(names)) and set(names) <= asked, "of whom?")
            need(kind == "receipts" or (set(names) == asked and (kind == "end" or not self.heads)), "not of every site once")
            self.closed = self.ended = kind == "end"
            for site, count, head in body["heads"]:
                need(count + self.closed > self.heads.get(site, [-1])[0], f"site {site} went back")
                self.heads[site] = [count, head]
                self.receipts.append((number, kind, where, site, count, head))
            need(body["root"] == self.root(self.heads), "another root")
        self.last = self.last if self.closed else self.root({**self.heads, "": [number, hash]})

    def site(self, number, hash, body):
        kind, plan = body["kind"], self.plan
        if number == 0:
            self.most = Plan(body, self.roster["run"], self.roster["sites"][self.name], self.alone).most
            need(body["site"] == self.name and all(body[n] == plan.body[n] for n in AGREED), "not the coordinator's plan")
        elif kind == "charge":
            self.charge(number, body, plan, (body["round"], body["attempt"]))
        elif kind == "settle":
            need(body["charge"] in self.charges.keys() - self.settled, "it settles no charge")
            self.settled.add(body["charge"])
        else:
            need(kind in ("checkpoint", "end") and body["rounds"] == self.spent, "of no kind, or miscounted")
            need(plan.holds(self.spent, body["pld"]), "its PLD figure is wrong")
            self.ended = kind == "end"
            need(not self.ended or (body["witness"] == self.last and near(body["epsilon"], plan.epsilon(self.spent))), "another end")

    def charge(self, number, body, plan, where):
        whole, once = plan.body["whole_plan"], plan.body["once_a_round"]
        need(all(body[n] == plan.body[n] for n in [*EVENT, "config"] if n != "clip" or not once), "another event")
        joining = {"sites": [self.name] * (not self.charges and where == (None, None)), "request": "", "model": "", "witness": ZEROS}
        asked = joining if whole else self.sent.get(where, {})
        need(self.name in asked.get("sites", []) and body["run"] == self.roster["run"], "the coordinator never asked for it")
        need(all(body[n] == asked[n] for n in ("request", "model", "witness")), "the two sides do not agree")
        new = plan.body["rounds"] if whole else int(not (once and where[0] in self.paid))
        self.spent, self.charges[number] = self.spent + new, where
        self.paid.add(where[0])
        need((body["new"], body["rounds"]) == (new, self.spent) and self.spent <= self.most, "over the budget, or miscounted")
        figures, wanted = [*body["rdp"], body["epsilon"]], [*self.spent * plan.rho, plan.epsilon(self.spent)]
        need(len(figures) == len(wanted) and all(map(near, figures, wanted)), "its figures do not follow from its events")

    def verify(self, head=None):
        self.walk("ledger.jsonl", self.roster["coordinator"], self.coordinator)
        files = {name: f"sites/{quote(name, safe='')}/ledger.jsonl" for name in sorted(self.sites)}
        strangers = {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*ledger*.jsonl")} - {"ledger.jsonl", *files.values()}
        need(not strangers, f"{min(strangers, default='')}: a ledger of nobody")
        for self.name, file in files.items():
            self.charges, self.settled, self.paid, self.spent = {}, set(), set(), 0
            self.walk(file, self.roster["sites"][self.name], self.site)
            for number, kind, where, _, count, hash in (row for row in self.receipts if row[3] == self.name):
                place = {"end": count == len(self.own) - 1, "receipts": self.charges.get(count) == where}.get(kind, True)
                right = place and self.own[count : count + 1] == [hash]
                need(right, f"ledger.jsonl, line {number + 1}: entry {count} of {self.name} is cut, put back or forked")
            need(self.ended or not self.closed, f"{file}, line {len(self.own)}: the run has ended, and this has no end")
            yield f"{self.name}: {self.spent} rounds, ε = {self.plan.epsilon(self.spent):.4f} (rdp)"
        need(head is None or head in self.hashes, "ledger.jsonl: the head that was noted elsewhere is in no chain")
        yield f"not cross-checked by prv: the PLD figures of {sorted(self.alone)} charges"
        yield "closed" if self.closed else "not closed: only a head noted elsewhere shows whether entries were cut from the end"


if __name__ == "__main__":
    folder, keys, outside = [*sys.argv[1:], None][:3] if len(sys.argv) > 2 else sys.exit(__doc__)
    print("sound", *Run(Path(folder), json.loads(Path(keys).read_bytes())).verify(outside), sep="\n")
