"""A chain of entries: what is written is what is read, by one writer at a time; anything else is noticed."""

import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvision.errors import LedgerDamaged
from privacy.ledger.chain import FIRST, Broken, Chain, Entry, canonical, parsed

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def _filled(path: Path, key: Ed25519PrivateKey | None = KEY, entries: int = 3, **more: Any) -> Chain:
    chain = Chain(path, key, **more)
    for number in range(entries):
        chain.append({"kind": "charge", "round": number})
    return chain


def test_the_canonical_form_is_sorted_ascii_without_white_space() -> None:
    value = {"b": [1, 1.0, 0.1, 1e-05, 1e16, -0.0, True, None], "a": 'é"\\\n\x7f', "B": {}}
    assert canonical(value) == b'{"B":{},"a":"\\u00e9\\"\\\\\\n\\u007f","b":[1,1.0,0.1,1e-05,1e+16,-0.0,true,null]}'


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": [[-math.inf]]}, {1: 2}, {"a": 2**53 + 1}, {"a": object()}])
def test_what_has_no_one_form_is_not_written(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        canonical(value)


def test_each_entry_holds_its_place_the_hash_of_the_line_before_it_and_a_signature(tmp_path: Path) -> None:
    _filled(tmp_path / "l.jsonl")
    previous = FIRST
    for number, line in enumerate((tmp_path / "l.jsonl").read_bytes().splitlines()):
        entry = parsed(line, number, previous, KEY.public_key())
        assert entry.body == {"kind": "charge", "round": number, "prev": previous, "seq": number}
        previous = entry.hash


def test_a_chain_is_taken_up_where_it_was_left_and_its_owner_sees_every_entry_once(tmp_path: Path) -> None:
    seen: list[Entry] = []
    _filled(tmp_path / "l.jsonl")
    chain = Chain(tmp_path / "l.jsonl", KEY, seen.append)
    chain.append({"kind": "charge", "round": 3})
    assert [entry.body["round"] for entry in seen] == [0, 1, 2, 3] and chain.count == 4 and chain.head == seen[-1].hash


def test_reading_a_chain_that_is_not_there_makes_no_file(tmp_path: Path) -> None:
    assert Chain(tmp_path / "l.jsonl", KEY).read().count == 0 and not list(tmp_path.iterdir())


def test_what_a_crash_tore_is_dropped_when_the_next_entry_is_written(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    _filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"body":{"kind":"cha')
    assert Chain(path, KEY).read().count == 3
    Chain(path, KEY).append({"kind": "charge", "round": 3})
    lines = path.read_bytes().splitlines()
    assert b"\n".join(lines[:3]) + b"\n" == whole and json.loads(lines[3])["body"]["round"] == 3


@pytest.mark.parametrize("key", [KEY, None], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            lambda lines: [lines[0], lines[1].replace(b'"round":1', b'"round":7'), lines[2]],
            "line 3: it does not continue|line 2: its signature",
        ),
        (lambda lines: [lines[0], lines[2]], "line 2: it says that it is entry 2"),
        (lambda lines: [lines[1], lines[0], lines[2]], "line 1: it says that it is entry 1"),
        (lambda lines: [lines[0], lines[0], lines[1], lines[2]], "line 2: it says that it is entry 0"),
        (lambda lines: [lines[0], b"{}", *lines[1:]], "line 2: it is no entry"),
        (lambda lines: [lines[0].replace(b'"kind":', b'"kind": '), *lines[1:]], "line 1: it is not in canonical form"),
        (lambda lines: [lines[0], lines[1][:9] + b"\xff" + lines[1][10:], lines[2]], "line 2: it is no JSON"),
    ],
    ids=["digit", "removed", "reordered", "duplicated", "inserted", "space", "byte"],
)
def test_a_chain_that_was_changed_is_not_continued(tmp_path: Path, key: Ed25519PrivateKey | None, what: Any, said: str) -> None:
    path = tmp_path / "l.jsonl"
    _filled(path, key)
    path.write_bytes(b"\n".join(what(path.read_bytes().splitlines())) + b"\n")
    with pytest.raises(LedgerDamaged, match=said):
        Chain(path, key).append({"kind": "charge"})


@pytest.mark.parametrize("place", [12, -10, -1])
def test_one_byte_of_a_signed_line_is_enough_to_see_it(place: int, tmp_path: Path) -> None:
    line = bytearray(_filled(tmp_path / "l.jsonl", entries=1).path.read_bytes()[:-1])
    line[place] ^= 1
    with pytest.raises(Broken):
        parsed(bytes(line), 0, FIRST, KEY.public_key())


def test_the_last_entry_changed_is_noticed_by_its_own_writer(tmp_path: Path) -> None:
    path = _filled(tmp_path / "l.jsonl").path
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":3'))
    with pytest.raises(LedgerDamaged, match="line 3: its signature"):
        Chain(path, KEY).append({"kind": "charge"})


def test_a_signature_written_in_other_letters_is_none(tmp_path: Path) -> None:
    line = _filled(tmp_path / "l.jsonl", entries=1).path.read_bytes()[:-1]
    with pytest.raises(Broken, match="no entry"):
        parsed(line[:-130] + line[-130:-2].upper() + line[-2:], 0, FIRST, KEY.public_key())


def test_another_key_is_noticed_by_whoever_has_the_right_one(tmp_path: Path) -> None:
    line = _filled(tmp_path / "l.jsonl", Ed25519PrivateKey.generate(), 1).path.read_bytes()[:-1]
    with pytest.raises(Broken, match="signature"):
        parsed(line, 0, FIRST, KEY.public_key())


def test_an_older_file_put_back_is_noticed_by_the_head_kept_apart(tmp_path: Path) -> None:
    path, apart = tmp_path / "l.jsonl", tmp_path / "elsewhere" / "head"
    _filled(path, apart=apart, entries=2)
    older = path.read_bytes()
    _filled(path, apart=apart, entries=1)
    path.write_bytes(older)
    with pytest.raises(LedgerDamaged, match="3 entries were written, and it has 2: an older file was put back"):
        Chain(path, KEY, apart=apart).append({"kind": "charge"})
    path.unlink()
    with pytest.raises(LedgerDamaged, match="it has 0"):
        Chain(path, KEY, apart=apart).read()


def test_another_history_of_the_same_length_is_noticed_by_the_head_kept_apart(tmp_path: Path) -> None:
    path, apart = tmp_path / "l.jsonl", tmp_path / "head"
    _filled(path, apart=apart)
    _filled(tmp_path / "fork.jsonl", entries=2).append({"kind": "charge", "round": 9})
    path.write_bytes((tmp_path / "fork.jsonl").read_bytes())
    with pytest.raises(LedgerDamaged, match="line 3: it is another entry"):
        Chain(path, KEY, apart=apart).read()


def test_a_crash_before_the_head_is_remembered_loses_nothing(tmp_path: Path) -> None:
    path, apart = tmp_path / "l.jsonl", tmp_path / "head"
    _filled(path, apart=apart, entries=2)
    before = apart.read_bytes()
    _filled(path, apart=apart, entries=1)
    apart.write_bytes(before)
    assert Chain(path, KEY, apart=apart).read().count == 3


def _spend(path: Path, most: int) -> None:
    charged: list[Entry] = []
    chain = Chain(path, KEY, charged.append)
    while True:
        with chain.held():
            if len(charged) >= most:
                return
            chain.append({"kind": "charge"}, sync=False)


def test_two_processes_cannot_both_spend_the_last_of_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_spend, args=(tmp_path / "l.jsonl", 60)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert Chain(tmp_path / "l.jsonl", KEY).read().count == 60
