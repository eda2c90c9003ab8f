"""Which function of `values` an attribute's value must pass, by its keyword, VR and action; and the dummies of those
that must have a value."""

from functools import cache

from privacy.deidentify import terms, values


def dummy(keyword: str, vr: bytes) -> bytes | None:
    """A value that says nothing, for attributes that must have one."""
    return DUMMIES.get(
        keyword,
        {b"DA": b"19000101", b"TM": b"000000", b"DT": b"19000101000000", b"LO": b"REMOVED", b"SH": b"REMOVED"}.get(vr),
    )


DUMMIES = {
    "ContentLabel": b"OBJECT",
    "CodeMeaning": None,
    "CodeValue": None,
    "CodingSchemeDesignator": None,
    "ImageType": rb"DERIVED\SECONDARY",
    "ConversionType": b"WSD",
    "ContentCreatorName": b"REMOVED",
    "Modality": b"OT",
    "RescaleType": b"US",
    "SequenceVariant": b"NONE",
    "ScanningSequence": b"RM",
    "SegmentAlgorithmType": b"MANUAL",
}


BY_KEYWORD: dict[str, values.Act] = {
    "PatientID": values.patient_id,
    "PatientName": values.patient_id,
    "PatientOrientation": values.orientation,
    "PatientAge": values.age,
    "ManufacturerModelName": values.model,
    "SOPClassUID": values.uid,
    "ReferencedSOPClassUID": values.uid,
    "ROIName": values.structure("ROI", 0x30060022),
    "SegmentLabel": values.structure("Segment", 0x00620004),
    **{f"{colour}PaletteColorLookupTableData": values.table_data for colour in ("Red", "Green", "Blue")},
    **{f"Segmented{colour}PaletteColorLookupTableData": values.segmented_table for colour in ("Red", "Green", "Blue")},
    "LUTData": values.table_data,
    # parts of codes never pass on their own: `cleaner` writes the whole code where PS3.16 knows it
    **dict.fromkeys(("CodeValue", "CodingSchemeDesignator", "CodeMeaning"), values.removed),
}
_CONTEXTUAL = {"PatientID", "PatientName", "ROIName", "SegmentLabel", "LUTData"}
_CONTEXTUAL |= {keyword for keyword in BY_KEYWORD if keyword.endswith("PaletteColorLookupTableData")}
_DATES = {b"DA", b"TM", b"DT"}


def check(keyword: str, vr: bytes, action: str, options: frozenset[str]) -> tuple[values.Act, bool]:
    """The function that an attribute's value must pass, and whether it depends on the value alone."""
    if keyword in ("InstitutionName", "InstitutionalDepartmentName"):
        return values.institution, True
    if keyword in BY_KEYWORD:
        return BY_KEYWORD[keyword], keyword not in _CONTEXTUAL
    if action == "C" and vr in (b"LO", b"SH"):
        return values.descriptor, True
    if action == "K" and vr in (b"LO", b"SH") and keyword not in terms.coded():
        return values.device, False
    if vr in _DATES:
        return _temporal(keyword, vr, options)
    if vr in (b"CS", b"LO", b"SH", b"LT"):
        known = keyword in terms.coded() or keyword in terms.PATTERNS
        act = values.kernel if keyword == "ConvolutionKernel" else values.coded(keyword) if known else values.removed
        return act, True
    if vr == b"UI":
        return values.uid, True
    by_vr: dict[bytes, values.Act] = {b"DS": values.decimals, b"IS": values.integers, b"AS": values.age}
    return (by_vr[vr], True) if vr in by_vr else (_numbers(keyword, vr), True) if vr in values.SIZES else (values.removed, True)


def _numbers(keyword: str, vr: bytes) -> values.Act:
    return values.binary(vr, None if vr == b"OW" else _most_values(_tag(keyword)))


def _temporal(keyword: str, vr: bytes, options: frozenset[str]) -> tuple[values.Act, bool]:
    if "113106" in options:
        return {b"DA": values.same_date, b"TM": values.same_time, b"DT": values.same_datetime}[vr], True
    if "113107" not in options:
        return values.removed, True
    return {b"DA": values.moved_date(_tag(keyword)), b"TM": values.moved_time, b"DT": values.moved_datetime}[vr], False


@cache
def _tag(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return int(tag_for_keyword(keyword) or 0)


@cache
def _most_values(tag: int) -> int | None:
    """The upper limit of an attribute's multiplicity in PS3.6, None where there is none."""
    from pydicom.datadict import dictionary_VM

    last = dictionary_VM(tag).split("-")[-1]
    return int(last) if last.isdigit() else None
