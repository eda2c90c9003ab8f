"""The page about data names what there is, and nothing else."""

import re
from pathlib import Path

from fedvision.data.datasets import DATASETS
from fedvision.data.sources import SOURCES, TOGETHER

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_data_set_has_its_row_and_no_other_has() -> None:
    assert set(re.findall(r"^\| `([a-z0-9_]+)` \|", PAGE, re.M)) == set(DATASETS)


def test_what_the_page_fetches_can_be_fetched() -> None:
    named = re.findall(r"fedvision data fetch ([a-z0-9_ ]+)", PAGE)
    assert named and {name for names in named for name in names.split()} <= {*SOURCES, *TOGETHER}
