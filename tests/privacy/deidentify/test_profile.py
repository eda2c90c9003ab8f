"""The product's own rules against the standard's table as data, and the vocabulary of what may be kept."""

import json
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_VR, tag_for_keyword

from fedvision.errors import ConfigError
from fedvision.schema import validate
from privacy.deidentify import attributes, terms, values
from privacy.deidentify.modules import CLASSES, STORAGE, words
from privacy.deidentify.policy import MEANINGS, Policy
from privacy.deidentify.profile import OPTION_LETTERS, action, rules, safe_private, table

TABLE = Path(__file__).parents[4] / "shared" / "data" / "dicom_ps3_15_2025e.json"
COLUMNS = {
    "113105": "clean_descriptors",
    "113107": "rtn_long_modified_dates",
    "113106": "rtn_long_full_dates",
    "113108": "rtn_patient_chars",
    "113109": "rtn_device_id",
    "113110": "rtn_uids",
    "113112": "rtn_institution_id",
}


@pytest.fixture(scope="module")
def standard():
    if not TABLE.exists():
        pytest.skip("the standard's table as data is not beside this repository (../shared/data)")
    return json.loads(TABLE.read_text())


def test_every_row_of_table_e_1_1_is_ours_with_its_basic_action_and_its_options(standard):
    ours = table()
    for row in standard["table_E_1_1"]:
        tag = row["tag"].replace(",", "").upper()
        if not tag[:4].strip("0123456789ABCDEFX"):
            basic, options = ours[tag]
            assert basic == row["basic"], tag
            for code, column in COLUMNS.items():
                assert options.get(OPTION_LETTERS[code]) == row.get(column), (tag, column)
    assert ours["0040E012"][0] == "X"  # the one row that 2026c adds


def test_the_safe_private_elements_are_those_of_table_e_3_10_1(standard):
    theirs = {(r["creator"], int(r["tag"][1:5], 16), int(r["tag"][8:10], 16)) for r in standard["table_E_3_10_1_safe_private"]}
    assert set(safe_private()) == theirs


def test_the_codes_are_those_of_cid_7050(standard):
    assert {row["code"]: row["meaning"] for row in standard["cid_7050"]} == MEANINGS


def test_with_the_basic_profile_alone_no_attribute_that_the_table_removes_has_a_rule():
    policy = Policy(options=[])
    for sop_class in CLASSES:
        for tag, rule in rules(STORAGE + sop_class, policy).items():
            assert action(tag, rule.kind, frozenset()) != "X", rule.keyword


def test_every_word_of_every_module_is_an_attribute_of_the_standard_and_text_has_a_vocabulary_or_a_rule():
    ruled = set(attributes.BY_KEYWORD) | set(table())
    for sop_class in CLASSES:
        for keyword in words(STORAGE + sop_class):
            tag = tag_for_keyword(keyword)
            assert tag is not None, keyword
            if dictionary_VR(tag) == "CS" and f"{tag:08X}" not in ruled and keyword not in ruled:
                assert keyword in terms.coded() or keyword == "ContentLabel", keyword


@pytest.mark.parametrize(
    ("policy", "words_of_the_error"),
    [
        ({"options": ["113106", "113107"]}, "choose one"),
        ({"options": ["113102"]}, "removes faces"),
        ({"options": ["113103"]}, "not passed at all"),
        ({"head_volumes": "allow"}, "head_volumes_reason"),
        ({"optoins": []}, "did you mean options"),
    ],
)
def test_a_policy_that_cannot_be_done_is_refused_and_says_why(policy, words_of_the_error):
    with pytest.raises(ConfigError, match=words_of_the_error):
        validate(Policy, policy, "policy.yaml")


def test_a_description_keeps_only_words_of_the_vocabulary():
    assert terms.descriptor("T1 AX post GD, Mrs Smith *1951 tel 555-1234") == "T1 AX POST GD"
    assert terms.descriptor("Jane Smith") == ""


def test_a_structure_keeps_its_name_where_tg_263_or_the_site_has_it():
    assert terms.structure("Lung_L") == "Lung_L" and terms.structure("heart") == "Heart"
    assert terms.structure("Smith lesion 2") is None
    assert terms.structure("Smith lesion 2", frozenset(["Smith lesion 2"])) == "Smith lesion 2"


@pytest.mark.parametrize("text", [b"555-1234", b"1..2", b"SMITH", b"1.5mm", b"12-34\\5", b"0x10", b"1.2.840", b"12345678901234567"])
def test_a_decimal_string_is_a_number_or_nothing(text):
    assert values.decimals(None, text) is None  # type: ignore[arg-type]
    assert values.decimals(None, text + b"\\1.0" * 100) is None  # type: ignore[arg-type]


def test_decimal_strings_of_every_form_pass():
    for text in (b"1", b"-1.5", b"+.5", b" 3. ", b"1e-05", b"1\\-2\\", b"12.5\\-3.25\\0" * 40):
        assert values.decimals(None, text) == text.rstrip()  # type: ignore[arg-type]
