"""A run over a store: children de-identify, this process counts, gives names, and writes the ledger.

Crash-safe by order: a checked file is on disk before it gets its name, and has its name before the ledger says so.
Names are a function of key and content, so what a kill leaves between the two is done again with the same result.
"""

import ctypes
import fcntl
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from fedvision.errors import ConfigError, DataError
from privacy.deidentify import manifest
from privacy.deidentify.instance import Deidentifier, Outcome, load, unwritable
from privacy.deidentify.intake import Input, walk
from privacy.deidentify.policy import EDITION, MEANINGS, Policy, rule_set
from privacy.deidentify.states import OF_THE_RUN, State, Summary
from privacy.deidentify.vault import Vault, sealed_input, site_key
from privacy.deidentify.workers import Pool

BATCH = 128  # files that get their names and their ledger rows together
LONGEST_BATCH = 2.0  # seconds

Progress = Callable[[int, int], None]  # (files done, files in all)


def _no_progress(done: int, total: int) -> None:
    return


def deidentify(
    store: Path,
    out: Path,
    site: Path,
    policy: Policy,
    *,
    workers: int = 1,
    progress: Progress = _no_progress,
    settle: float = 0.0,
) -> Summary:
    """De-identify every file of `store` into `out`; what an earlier run did and has not changed since is not done
    again.

    settle: files changed within so many seconds are left for a later run (an inbox that is still being filled).
    ConfigError where folders lie in each other, or `out` holds other things; the lock of a running run is respected.
    DataError where `out` or the vault cannot be written to, e.g. on a full disk: what is in the ledger stays done.
    """
    _apart(store, out, site)
    try:
        key = site_key(site, create=True)
        _prepare(out)
        with closing(Vault(site, key)) as vault, open(out / ".partial" / "lock", "w") as lock:
            _lock(lock.fileno(), out)
            return Run(store, out, vault, key, policy, workers, progress, settle).go()
    except OSError as error:
        raise unwritable(out, error) from None
    except sqlite3.OperationalError as error:
        raise DataError(
            f"the vault in {site} cannot be used: {error}; see to its disk and rights, and that no other run uses it, and run again"
        ) from None


def _apart(store: Path, out: Path, site: Path) -> None:
    if not store.is_dir():
        raise ConfigError(f"{store} is no folder; STORE is the folder with the images")
    folders = {"STORE": store.resolve(), "OUT": out.resolve(), "the site folder": site.resolve()}
    for name, folder in folders.items():
        for other, around in folders.items():
            if name != other and (folder == around or around in folder.parents):
                raise ConfigError(f"{name} ({folder}) lies in {other} ({around}); keep originals, outputs and keys apart")


def _prepare(out: Path) -> None:
    ours = (out / ".partial").is_dir()
    if out.exists() and not ours and any(out.iterdir()):
        raise ConfigError(f"{out} holds files that no run wrote; OUT is an empty folder, or one of an earlier run")
    (out / ".partial").mkdir(mode=0o750, parents=True, exist_ok=True)


def _lock(descriptor: int, out: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is writing to {out}; wait for its end, or choose another OUT") from None


class Run:
    """One pass over a store.  Only this process writes to the vault and gives names."""

    def __init__(
        self,
        store: Path,
        out: Path,
        vault: Vault,
        key: bytes,
        policy: Policy,
        workers: int,
        progress: Progress,
        settle: float,
    ):
        self.store, self.out, self.vault, self.policy = store, out, vault, policy
        self.workers, self.progress, self.settle = workers, progress, settle
        self.make = partial(Deidentifier, key, policy, out)
        self.rules = f"{rule_set(policy)[:32]}-{vault.key_id}"
        self.number = vault.out(out)
        self.summary = Summary()
        self.done = self.total = 0
        self.folders: set[str] = set()
        self.before: dict[bytes, str] = {}  # the names that inputs under way had before
        self.started = time.time()

    def go(self) -> Summary:
        """Take every input of the store to its state."""
        begin = time.monotonic()
        self.run, self.clean = self.vault.begin(self.number)
        for left in (self.out / ".partial").glob("*.part"):
            left.unlink()
        self.total = sum(1 for _ in walk(os.fsencode(self.store.resolve())))
        load()
        with Pool(self.make, self.workers, self.policy.seconds_per_file, self.policy.memory_mib) as pool:
            self._commit_all(pool.outcomes(self._tasks()))
            self._commit_all(pool.outcomes(self._series_with_text()))
            self._commit_all(pool.outcomes(self._left_alone()))
        if self.summary.fresh:
            self._moved()
            self._outdated()
        if not self.clean:
            self._sweep()
        self._close(begin)
        return self.summary

    # ------------------------------------------------------------------------------------------------- what to do

    def _tasks(self) -> Iterator[tuple[tuple[bytes, bool], Input]]:
        """What children have to do.  Everything else is recorded on the way."""
        newest = (self.started - self.settle) * 1e9
        for item in walk(os.fsencode(self.store.resolve())):
            if self.settle and not item.kind and item.mtime_ns > newest:
                self.summary.waiting += 1
                continue
            self.summary.inputs += 1
            path = self.vault.path_key(item.path)
            if item.kind:
                state = State.QUARANTINED if item.kind == "unreadable" else State.SKIPPED
                self._record(item, path, Outcome(state, "UNREADABLE" if state == State.QUARANTINED else item.kind))
                self._step()
            elif self._unchanged(item, path):
                self.before.pop(path, None)
                self.vault.db.execute("UPDATE inputs SET run = ? WHERE out = ? AND path = ?", (self.run, self.number, path))
                self._step()
            else:
                yield (item.path, False), item

    def _series_with_text(self) -> Iterator[tuple[tuple[bytes, bool], Input]]:
        """The images of series whose sample held text: every one of them is looked at now."""
        pixels, series = "json_extract(row, '$.pixels')", "json_extract(row, '$.series')"
        ours = "FROM inputs WHERE out = :out AND rules = :rules AND state = 'deidentified'"
        query = (
            f"SELECT path, size, mtime_ns, inode, sealed {ours} AND {pixels} = 'series sampled' "
            f"AND {series} IN (SELECT {series} {ours} AND {pixels} = 'blanked')"
        )
        return self._again(query, thoroughly=True)

    def _left_alone(self) -> Iterator[tuple[tuple[bytes, bool], Input]]:
        """The duplicates of files that have no copy any more, since they have changed."""
        copy = "SELECT 1 FROM inputs AS first INDEXED BY by_instance WHERE first.out = inputs.out"
        copy += " AND first.instance = inputs.instance AND first.state = 'deidentified'"
        query = "SELECT path, size, mtime_ns, inode, sealed FROM inputs"
        query += f" WHERE out = :out AND rules = :rules AND run = :run AND state = 'duplicate' AND NOT EXISTS ({copy}) ORDER BY path"
        return self._again(query, thoroughly=False)

    def _again(self, query: str, thoroughly: bool) -> Iterator[tuple[tuple[bytes, bool], Input]]:
        known = {"out": self.number, "rules": self.rules, "run": self.run}
        for _, size, mtime_ns, inode, sealed in self.vault.db.execute(query, known).fetchall():
            self.total += 1
            path = os.fsencode(self.vault.open(sealed)["path"])
            yield (path, thoroughly), Input(path, size, mtime_ns, inode)

    def _unchanged(self, item: Input, path: bytes) -> bool:
        query = "SELECT size, mtime_ns, inode, rules, state, code, name, row FROM inputs WHERE out = ? AND path = ?"
        row = self.vault.db.execute(query, (self.number, path)).fetchone()
        if row is not None and row[6]:
            self.before[path] = row[6]
        if row is None or row[:4] != (item.size, item.mtime_ns, item.inode, self.rules):
            return False
        if row[4] == State.DEIDENTIFIED:
            try:
                return os.stat(f"{self.out}/{row[6]}").st_size == json.loads(row[7])["bytes"]
            except FileNotFoundError:
                return False
        return row[5] not in ("TIMEOUT", "CRASHED", "UNREADABLE", "CHANGED_DURING_READ")

    # --------------------------------------------------------------------------------------------------- what was done

    def _commit_all(self, outcomes: Iterator[tuple[Input, Outcome]]) -> None:
        batch: list[tuple[Input, Outcome]] = []
        since = time.monotonic()
        self.vault.db.execute("BEGIN IMMEDIATE")
        for item, outcome in outcomes:
            batch.append((item, outcome))
            if len(batch) >= BATCH or time.monotonic() - since > LONGEST_BATCH:
                self._commit(batch)
                batch, since = [], time.monotonic()
        self._commit(batch)
        self.vault.db.execute("COMMIT")

    def _commit(self, batch: list[tuple[Input, Outcome]]) -> None:
        """Files to disk, then names, then the ledger."""
        begin = time.monotonic()
        _sync(self.out)
        self.summary.sync_seconds += time.monotonic() - begin
        for item, outcome in batch:
            self._settle(item, outcome)
            self._step()
        begin = time.monotonic()
        self.vault.db.execute("COMMIT")
        self.summary.sync_seconds += time.monotonic() - begin
        self.vault.db.execute("BEGIN IMMEDIATE")

    def _settle(self, item: Input, outcome: Outcome) -> None:
        """Give a checked file its name, unless another file has its instance already."""
        path = self.vault.path_key(item.path)
        self.summary.fresh += 1
        self._forget(path, outcome.name)
        if outcome.state == State.DEIDENTIFIED:
            part = f"{self.out}/.partial/{outcome.partial}"  # plain strings: with paths as objects this takes twice as long
            others = self._others(path, outcome.instance)
            if not others:
                self._name(part, outcome)
            else:
                os.unlink(part)
                same = all(code == "" and self._same(outcome, content, copy) for content, copy, code in others)
                if not same:
                    self._conflict(outcome.instance)
                known = (outcome.content, outcome.instance, outcome.patient, outcome.identity)
                outcome = Outcome(State.DUPLICATE, "", "", *known) if same else Outcome(State.QUARANTINED, "UID_CONFLICT", "", *known)
        self._record(item, path, outcome)

    @staticmethod
    def _same(outcome: Outcome, content: str, copy: str) -> bool:
        """The same bytes; or the same object in another encoding: its copy is the same, and so is all that it says."""
        return content == outcome.content or (copy == outcome.row["sha256"] and content[32:] == outcome.content[32:])

    def _others(self, path: bytes, instance: str) -> list[tuple[str, str, str]]:
        """(content, SHA-256 of the copy, code) of other inputs that had or have a copy under this instance, or were held
        back for it.  Duplicates have none."""
        # left to itself, SQLite takes the first column of the primary key and reads every row of the folder
        query = "SELECT content, json_extract(row, '$.sha256'), code, path, rules FROM inputs INDEXED BY by_instance"
        query += " WHERE out = ? AND instance = ? AND (state = 'deidentified' OR code = 'UID_CONFLICT')"
        found = self.vault.db.execute(query, (self.number, instance))
        return [tuple(row[:3]) for row in found if row[3] != path and row[4] == self.rules]

    def _conflict(self, instance: str) -> None:
        """Hold back every input with this instance, what had a name included."""
        where = "INDEXED BY by_instance {} WHERE out = ? AND instance = ? AND state IN ('deidentified', 'duplicate')"
        known = (self.number, instance)
        for (name,) in self.vault.db.execute("SELECT name FROM inputs " + where.format(""), known).fetchall():
            if name:
                (self.out / name).unlink(missing_ok=True)
        held = "SET state = 'quarantined', code = 'UID_CONFLICT', name = '', row = '{}'"
        self.vault.db.execute("UPDATE inputs " + where.format(held), known)

    def _moved(self) -> None:
        """What lies elsewhere than before is no duplicate of itself: where the first input is gone, the copy is its own."""
        db, known = self.vault.db, (self.number, self.run)
        found = db.execute("SELECT path, instance FROM inputs WHERE out = ? AND run = ? AND state = 'duplicate'", known).fetchall()
        gone = "SELECT path, name, row FROM inputs INDEXED BY by_instance"
        gone += " WHERE out = ? AND instance = ? AND state = 'deidentified' AND run <> ? AND rules = ?"
        db.execute("BEGIN IMMEDIATE")
        for path, instance in found:
            for old, name, row in db.execute(gone, (self.number, instance, self.run, self.rules)).fetchall():
                db.execute("DELETE FROM inputs WHERE out = ? AND path = ?", (self.number, old))
                change = "UPDATE inputs SET state = 'deidentified', name = ?, row = ? WHERE out = ? AND path = ?"
                db.execute(change, (name, row, self.number, path))
        db.execute("COMMIT")

    def _outdated(self) -> None:
        """Copies under other rules or another key, whose inputs are gone, are set aside: they cannot be made anew, and OUT has one
        set of rules."""
        db, aside = self.vault.db, self.out / ".partial" / "outdated"
        old = db.execute("SELECT path, name FROM inputs WHERE out = ? AND state = 'deidentified' AND rules <> ?", (self.number, self.rules))
        db.execute("BEGIN IMMEDIATE")
        for path, name in old.fetchall():
            db.execute("DELETE FROM inputs WHERE out = ? AND path = ?", (self.number, path))
            shared = db.execute("SELECT 1 FROM inputs WHERE out = ? AND name = ?", (self.number, name)).fetchone() is not None
            if not shared and (self.out / name).exists():
                (aside / name).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                os.replace(self.out / name, aside / name)
                self.summary.set_aside += 1
        db.execute("COMMIT")

    def _forget(self, path: bytes, name: str) -> None:
        """Take away what an earlier run made of a file that has changed since."""
        old = self.before.pop(path, "")
        if old and old != name:
            (self.out / old).unlink(missing_ok=True)

    def _name(self, part: str, outcome: Outcome) -> None:
        target = f"{self.out}/{outcome.name}"
        folder = os.path.dirname(target)
        if folder not in self.folders:
            os.makedirs(folder, mode=0o750, exist_ok=True)
            if len(self.folders) > 10_000:
                self.folders.clear()
            self.folders.add(folder)
        os.replace(part, target)

    def _record(self, item: Input, path: bytes, outcome: Outcome) -> None:
        if outcome.identity is not None and outcome.patient:
            self.vault.subject(outcome.patient, outcome.identity)
        sealed = sealed_input(self.vault, item.path, outcome.identity)
        values = (
            self.number,
            path,
            item.size,
            item.mtime_ns,
            item.inode,
            self.rules,
            outcome.state,
            outcome.code,
            outcome.note,
        )
        more = (outcome.content, outcome.instance, outcome.name, json.dumps(outcome.row), sealed, self.run)
        self.vault.db.execute(f"INSERT OR REPLACE INTO inputs VALUES ({', '.join('?' * 15)})", values + more)

    def _step(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)

    # -------------------------------------------------------------------------------------------------------- the end

    def _sweep(self) -> None:
        """After a run that was killed: remove what has a name in the folder but no row in the ledger."""
        for path in self.out.glob("*/*/*.dcm"):
            name = str(path.relative_to(self.out))
            known = "SELECT 1 FROM inputs WHERE out = ? AND name = ? AND state = 'deidentified'"
            if self.vault.db.execute(known, (self.number, name)).fetchone() is None:
                path.unlink()

    def _close(self, begin: float) -> None:
        """Counts, manifest and summary."""
        query = "SELECT state, code, COUNT(*) FROM inputs WHERE out = ? AND run = ? GROUP BY state, code"
        states: Counter[str] = Counter({str(state): 0 for state in State})
        codes: Counter[str] = Counter()
        for state, code, count in self.vault.db.execute(query, (self.number, self.run)):
            states[state] += count
            if code:
                codes[code] += count
        summary = self.summary
        summary.states, summary.codes = dict(states), dict(sorted(codes.items()))
        digest, summary.outputs = self._manifest()
        summary.head = self._head(digest)
        manifest.write_summary(self.out, {key: value for key, value in summary.as_json().items() if key not in OF_THE_RUN})
        self.vault.finish(self.run)
        summary.seconds = time.monotonic() - begin
        if not summary.adds_up:
            raise ConfigError(
                f"{summary.inputs} inputs, but {sum(summary.states.values())} states: STORE changed during the run; run again"
            )

    def _manifest(self) -> tuple[str, int]:
        """SHA-256 and number of rows of the manifest, which is written anew where anything was done."""
        complete = self.clean and all((self.out / name).exists() for name in (manifest.MANIFEST, manifest.SUMMARY))
        if self.summary.fresh or not complete:
            return manifest.write(self.out, self._rows())
        before = manifest.read_summary(self.out)
        return before["manifest_sha256"], before["outputs"]

    def _rows(self) -> Iterator[dict[str, Any]]:
        query = "SELECT name, row FROM inputs WHERE out = ? AND state = 'deidentified' ORDER BY name"
        for name, row in self.vault.db.execute(query, (self.number,)):
            yield {"name": name, **json.loads(row)}

    def _head(self, digest: str) -> dict[str, Any]:
        looked = "SELECT json_extract(row, '$.pixels'), COUNT(*) FROM inputs WHERE out = ? AND state = 'deidentified' GROUP BY 1"
        return {
            "standard": EDITION,
            "profile": {code: MEANINGS[code] for code in self.policy.codes},
            "policy": self.policy.model_dump(),
            "rule_set": rule_set(self.policy),
            "key_id": self.vault.key_id,
            "manifest_sha256": digest,
            "pixels": dict(self.vault.db.execute(looked, (self.number,)).fetchall()),
        }


def _sync(folder: Path) -> None:
    """What was written to this file system is on its disk: one call for a whole batch."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(descriptor)
