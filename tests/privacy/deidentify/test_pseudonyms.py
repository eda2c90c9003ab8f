"""The same patient, study and reference stay the same; intervals stay; the key decides, and is guarded."""

import io
import os

import pydicom
import pytest
from planted import base, dataset, file, items

from fedvision.errors import ConfigError
from privacy.deidentify.pseudonyms import Pseudonyms, new_key, normalised, read_key
from privacy.deidentify.vault import Vault, site_key


def read(written: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(written))


def test_intervals_between_dates_and_times_stay_and_the_dates_do_not(bench):
    one = base(1) | {
        0x00080020: ("DA", b"20200131"),
        0x00080030: ("TM", b"235000"),
        0x00080022: ("DA", b"20200201"),
        0x00080032: ("TM", b"000500"),
    }
    two = base(2) | {0x00080020: ("DA", b"20200305"), 0x00080030: ("TM", b"080000.5")}
    first, second = (read(bench().run(file(elements))[1]) for elements in (one, two))
    day = pydicom.valuerep.DA
    assert (day(second.StudyDate) - day(first.StudyDate)).days == 34
    assert first.StudyDate != "20200131" and first.StudyTime == "060000" and second.StudyTime == "060000.000000"
    assert first.AcquisitionDate == first.StudyDate and first.AcquisitionTime == "061500"  # 15 minutes later, as before
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"


def test_dates_of_another_patient_move_by_another_number_of_days(bench):
    shifts = {read(bench().run(file(base() | {0x00100020: ("LO", b"P%d" % n)}))[1]).StudyDate for n in range(8)}
    assert len(shifts) > 4


def test_full_dates_stay_and_the_mark_says_so(bench):
    found = read(bench(options=["113106"]).run(file(base()))[1])
    assert (found.StudyDate, found.StudyTime, found.LongitudinalTemporalInformationModified) == (
        "20200131",
        "101500",
        "UNMODIFIED",
    )


def test_without_an_option_dates_go_and_the_mark_says_removed(bench):
    found = read(bench(options=[]).run(file(base()))[1])
    assert (found.StudyDate, found.LongitudinalTemporalInformationModified) == ("", "REMOVED")


def test_one_patient_under_spellings_of_one_id_is_one_and_another_issuer_another():
    key = Pseudonyms(bytes(32))
    assert key.patient(" ab 12 ") == key.patient("AB  12") == key.patient("ab 12")
    assert key.patient("AB 12", "hospital x") != key.patient("AB 12")
    assert normalised(" Ab  1 ") == "ab 1"


def test_a_reference_points_to_the_copy_of_what_it_pointed_to(bench):
    other = read(bench().run(file(base(2)))[1])
    reference = {0x00081150: ("UI", b"1.2.840.10008.5.1.4.1.1.2"), 0x00081155: ("UI", b"1.2.826.0.1.77.2")}
    found = read(bench().run(file(base(1) | {0x00081140: ("SQ", items(dataset(reference)))}))[1])
    assert found.ReferencedImageSequence[0].ReferencedSOPInstanceUID == other.SOPInstanceUID
    assert found.StudyInstanceUID == other.StudyInstanceUID and found.PatientID == other.PatientID == found.PatientName
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID


def test_what_was_done_is_written_in_codes(bench):
    found = read(bench(options=["113107", "113108"]).run(file(base()))[1])
    assert [item.CodeValue for item in found.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert found.PatientIdentityRemoved == "YES" and "BurnedInAnnotation" not in found


def test_a_key_that_others_can_read_is_refused(tmp_path):
    new_key(tmp_path / "key")
    assert read_key(tmp_path / "key") and os.stat(tmp_path / "key").st_mode & 0o777 == 0o600
    os.chmod(tmp_path / "key", 0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(tmp_path / "key")


def test_of_two_that_make_a_key_at_once_both_get_the_first(tmp_path):
    first = new_key(tmp_path / "key")
    assert new_key(tmp_path / "key") == first and [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_vault_without_its_key_is_not_given_a_new_one(tmp_path):
    key = site_key(tmp_path / "site", create=True)
    Vault(tmp_path / "site", key).close()
    (tmp_path / "site" / "key").unlink()
    with pytest.raises(ConfigError, match="put the key back"):
        site_key(tmp_path / "site", create=True)
