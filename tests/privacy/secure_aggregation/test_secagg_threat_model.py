"""The threat model names tests and checks that there are."""

import re
from pathlib import Path

from privacy.secure_aggregation.checks import CHECKS

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_test_that_the_threat_model_names_exists():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    there = set(re.findall(r"^def (test_\w+)\(", "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py")), re.M))
    assert len(named) > 10
    assert named - there == set()


def test_every_check_of_the_sites_stands_in_the_threat_model():
    assert {check for check in CHECKS if f"`{check}`" not in TEXT} == set()


def test_every_line_of_the_table_has_five_cells():
    rows = [line for line in TEXT.splitlines() if line.startswith("|")]
    assert len(rows) > 12
    assert {line.count(" |") for line in rows if "---" not in line} == {5}
