"""Make each known mistake of private training, one at a time, and see a test fail.

    python benchmarks/soak_mistakes.py [--only TEXT] [--out benchmarks/results/soak_mistakes.json]

These are mistakes that libraries and papers' code have made, or that are easily made: each puts a wrong number or a leak behind a promise that
still prints.  The exit code is 1 where no test notices one, or where a mistake can no longer be made because its line has changed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mutants import ROOT, Copy, load


class Mistake(NamedTuple):
    """`right` becomes `wrong` in `file`, and one of `tests` must fail."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


def _of(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/privacy/{folder}{slash}test_{file}.py" for folder, slash, file in (name.rpartition("/") for name in names))


TRAINING, LEVEL = _of("dp_training", "private_run"), _of("client_level", "private_run")
GRADIENTS, ACCOUNTS = _of("gradients", "check_model", "dp_training"), _of("accountants", "privacy_commands", "private_run")
MISTAKES: dict[str, Mistake] = {
    # noise
    "the same noise in every run": Mistake("privacy/noise.py", "Source(os.urandom(32), secret=True)", "Source(bytes(32), secret=True)", _of("noise", "private_run")),
    "noise from torch's own generator": Mistake(
        "privacy/noise.py", "self._cipher.update_into(memoryview(self._zeros)[: 4 * words], self._bits)", "self._words.random_()", _of("noise"),
    ),
    "one draw of noise, used again and again": Mistake(
        "privacy/noise.py", "self._cipher.update_into(memoryview(self._zeros)[: 4 * words], self._bits)",
        "self._cipher.reset_nonce(bytes(16)); self._cipher.update_into(memoryview(self._zeros)[: 4 * words], self._bits)", _of("noise"),
    ),
    "noise without its tails": Mistake("privacy/noise.py", "clamp_(min=2.0**-32)", "clamp_(min=2.0**-6)", _of("noise")),
    "a source that can be copied to another process": Mistake("privacy/noise.py", "def __reduce__(self)", "def _reduce(self)", _of("noise")),
    "noise that forgets the clip norm": Mistake("privacy/training.py", "source.add_gaussian(total, self.noise_multiplier * self.spec.clip)", "source.add_gaussian(total, self.noise_multiplier)", TRAINING),
    "noise of the variance, taken for the deviation": Mistake("privacy/noise.py", "mul_(-2 * sigma * sigma)", "mul_(-2 * sigma)", _of("noise", "dp_training")),
    "noise added twice": Mistake("privacy/training.py", "        self._add_noise(self._total, source)\n", "        self._add_noise(self._total, source)\n        self._add_noise(self._total, source)\n", TRAINING),
    "no noise on an empty sample": Mistake("privacy/training.py", "        self._add_noise(self._total, source)\n", "        if len(sample):\n            self._add_noise(self._total, source)\n", TRAINING),
    "sites' noise that forgets the clip norm": Mistake("privacy/client_level.py", "source.add_gaussian(noise, self.deviation * clip)\n            values", "source.add_gaussian(noise, self.deviation)\n            values", LEVEL),
    "local noise that forgets the clip norm": Mistake("clients/private.py", "noisy(bounded, bench.protection.plan.noise_multiplier * clip, source)", "noisy(bounded, bench.protection.plan.noise_multiplier, source)", _of("private_run", "client_level")),
    "repeatable noise that says it is secret": Mistake("privacy/noise.py", "digest(), secret=False)", "digest(), secret=True)", _of("noise")),
    "repeatable noise on a site's own images": Mistake("clients/private.py", "p.simulation_only_seed is not None and experiment.data.dataset in OWN_IMAGES", "False", _of("private_run")),
    # sampling
    "a fixed number drawn, priced as Poisson": Mistake("privacy/noise.py", "np.flatnonzero(self.uniform(n) < rate)", "np.sort(np.argsort(self.uniform(n))[: round(n * rate)])", _of("noise", "dp_training")),
    "images drawn where subjects are promised": Mistake("privacy/training.py", 'if spec.unit == "example":', "if True:", TRAINING),
    "all of a subject's images, beyond the public cap": Mistake("privacy/training.py", "spec.max_images or 1)", "max(map(len, np.split(order, ends))))", TRAINING),
    "a subject's first images alone": Mistake("privacy/training.py", "members = members[np.argsort(source.uniform(len(members)))[: self.most]]", "members = members[: self.most]", TRAINING),
    # clipping
    "divided by the sample's own size": Mistake("privacy/training.py", "parameters.div_(self.spec.divisor)", "parameters.div_(max(1, len(sample)))", TRAINING),
    "views clipped as if each were an example": Mistake("privacy/training.py", "self.spec.views) / self.spec.views)", "self.spec.views))", TRAINING),
    "a unit's norm that forgets a parameter": Mistake("privacy/gradients.py", "norm = torch.stack([s.double() for s in squares.values()]).sum(0).sqrt()", "norm = torch.stack([s.double() for s in list(squares.values())[1:] or squares.values()]).sum(0).sqrt()", GRADIENTS),
    "every layer clipped to the whole norm": Mistake("privacy/gradients.py", "share = self.norm / len(layers) ** 0.5", "share = self.norm", GRADIENTS),
    "gradients that are not finite added": Mistake("privacy/gradients.py", "if not bool(finite.all()):", "if False:", GRADIENTS),
    "gradients scaled up to the norm": Mistake("privacy/gradients.py", "most / norm.clamp(min=most)", "most / norm", GRADIENTS),
    "one unit's norm from its squares, added": Mistake("privacy/kernels.py", "torch.linalg.vector_norm(g.flatten(1), dim=1).square()", "torch.linalg.vector_norm(g.flatten(1), dim=1)", GRADIENTS),
    "the first use of a layer forgotten": Mistake("privacy/gradients.py", "before.plus(mine) if isinstance(before, Kept) else mine", "mine", GRADIENTS),
    "paddings taken for zeros": Mistake("privacy/kernels.py", 'if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):', "if not isinstance(layer.padding, str):", GRADIENTS),
    "attention with images and tokens mixed up": Mistake("privacy/gradients.py", "x = query if module.batch_first else query.transpose(0, 1)", "x = query", GRADIENTS),
    "sizes of an update before it is rounded": Mistake("privacy/client_level.py", "max(clip * (1 - 1e-6) - rounding, 0.0)", "clip", LEVEL),
    "an update that is not finite sent": Mistake("privacy/client_level.py", "if not math.isfinite(norm):", "if False:", LEVEL),
    "clipping that goes the wrong way": Mistake("privacy/client_level.py", "math.exp(-adaptive.rate *", "math.exp(adaptive.rate *", LEVEL),
    "bits of the clip norm, not paid for": Mistake("privacy/client_level.py", "left = sigma**-2 - (2 * adaptive.noise) ** -2", "left = sigma**-2", LEVEL),
    "bits of the clip norm without noise": Mistake("privacy/client_level.py", "source.add_gaussian(noise, self.spec.adaptive.noise)", "pass", LEVEL),
    "divided by the number that answered": Mistake("privacy/client_level.py", "noise.view(total.shape).double()) / self.sites", "noise.view(total.shape).double()) / sent.total.count", LEVEL),
    # models and losses
    "BatchNorm in training mode": Mistake("privacy/gradients.py", "if isinstance(module, _BATCH_NORM) and _reads_the_batch(module):", "if False:", GRADIENTS),
    "running statistics sent in the clear": Mistake("privacy/check_model.py", "    if own.buffers:\n", "    if False:\n", _of("check_model", "private_run")),
    "losses that couple images": Mistake("privacy/check_model.py", "        lambda: [_isolation(model, loss, inputs, targets)],\n", "", _of("check_model")),
    # counting
    "rounds that cost nothing": Mistake("privacy/plan.py", "a_round.steps * rounds)", "a_round.steps)", ACCOUNTS),
    "a patient at several sites, counted once": Mistake("privacy/plan.py", "several = _epsilon(a_round, rounds * at,", "several = _epsilon(a_round, rounds,", ACCOUNTS),
    "joined rounds at the price of a draw": Mistake("privacy/plan.py", "return rate if isinstance(p, Central) and p.amplified and rate is not None else 1.0", "return rate if rate is not None else 1.0", _of("ledger/amplification")),
    "one replaced, priced as one added": Mistake("privacy/accountants.py", '"replace_one": NeighboringRelation.REPLACE_ONE', '"replace_one": NeighboringRelation.ADD_OR_REMOVE_ONE', ACCOUNTS),
    "one replaced by RDP, priced as one added": Mistake("privacy/accountants.py", "phases = [Phase(phase.noise_multiplier / 2, 1.0, phase.steps) for phase in phases]", "pass", ACCOUNTS),
    "sampling counted where there is none": Mistake("privacy/accountants.py", "if phase.sampling_rate < 1:\n            noisy", "if False:\n            noisy", ACCOUNTS),
    "a larger unit's event, priced as one's own": Mistake("privacy/limits.py", 'return replace(event, unit=self.unit, relation="replace_one")', "return replace(event, unit=self.unit, relation=self.relation)", _of("limits")),
    "a subject's examples, priced as one": Mistake("privacy/limits.py", "noise_multiplier=event.noise_multiplier / self.examples)", "noise_multiplier=event.noise_multiplier)", _of("limits")),
    "an epsilon that is rounded down": Mistake("fedvision/types.py", "math.ceil(self.epsilon * 100 - 1e-9) / 100", "math.floor(self.epsilon * 100) / 100", _of("privacy_commands")),
    "a step that nothing was reserved for": Mistake("clients/private.py", "        account.reserve(request.round, request.attempt)\n", "", _of("private_run")),
    "a second draw for the same request": Mistake("clients/private.py", "        if vector is not None:\n", "        if False:\n", _of("private_run")),
    "a reply that leaves before it is kept": Mistake("clients/private.py", "        kept.keep(request, reply)\n", "        pass\n", _of("private_run")),
    "losses sent with the update": Mistake("clients/private.py", "    values[COUNT] = 1\n", "    values[COUNT] = len(site.train)\n", _of("private_run")),
    "work that tells the sample's size": Mistake("clients/private.py", "work = round(steps * p.divisor * p.views)", "work = len(site.train)", _of("private_run")),
}  # fmt: skip


def main() -> int:
    """Make each mistake, and say which nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mistakes whose name or file holds this")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "soak_mistakes.json")
    arguments = parser.parse_args()
    load()
    kept: dict[str, str] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        copy.sound(some for name, m in MISTAKES.items() if arguments.only in f"{name} {m.file}" for some in m.tests)
        for name, (file, right, wrong, tests) in MISTAKES.items():
            source = (ROOT / file).read_text()
            before = kept.get(name, "")
            if arguments.only not in f"{name} {file}":
                found[name] = before
                continue
            times = source.count(right)
            found[name] = copy.noticed(Path(file), source.replace(right, wrong), tests, before) if times == 1 else ""
            said = found[name] or ("NOBODY NOTICED" if times == 1 else f"ITS LINE STANDS {times} TIMES")
            print(f"{said}  <-  {name}", flush=True)
            arguments.out.write_text(json.dumps(kept | found, indent=1) + "\n")
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    missed = [name for name, by in found.items() if not by]
    print(f"{len(found)} mistakes, {len(missed)} of them not noticed, or not tried yet")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
