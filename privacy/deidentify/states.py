"""What can become of an input: exactly one state, with a code that holds nothing of the patient; and their counts."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The four states; their counts add up to the number of inputs."""

    DEIDENTIFIED = "deidentified"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


SKIPS = {
    "symlink": "a symbolic link; only the files of the store itself are read",
    "special": "a FIFO, socket or device",
    "partial": "a file that the receiver has not finished; the whole one comes under another name",
    "archive": "a zip, gzip, tar, 7z, xz, bzip2 or zstd archive; unpack it and point to the folder",
    "document": "a PDF, XML, HTML, JSON or plain text",
    "image": "a picture without a DICOM header (PNG, JPEG, GIF, BMP, TIFF, NIfTI)",
    "dicomdir": "a DICOMDIR, which lists names and paths",
}

CODES = {
    "EMPTY": "0 bytes",
    "TOO_LARGE": "over the policy's max_file_mib, or over the memory that one file may take",
    "UNREADABLE": "the operating system refused to read it",
    "CHANGED_DURING_READ": "its size, time or inode changed while it was read, twice",
    "NOT_DICOM": "no DICM mark, and no data set that parses to its last byte",
    "BOMB": "deflated data set over 512 MiB, or over 200 times its compressed size",
    "TRUNCATED": "ends within an element",
    "BAD_LENGTH": "a length that cannot be: past its sequence, or undefined where it may not be",
    "BAD_VR": "a VR outside the standard, or one that the kept attribute cannot have",
    "BAD_META": "file meta information without a known transfer syntax, or contradicting the data set",
    "ORDER": "tags not in ascending order",
    "DUPLICATE_TAG": "a tag twice in one data set",
    "DEPTH": "sequences nested over 16 deep",
    "TOO_MANY_ELEMENTS": "over a million elements and items",
    "MISSING_ID": "no SOP class, study, series or SOP instance UID, or no patient ID",
    "BAD_UID": "a study, series or SOP instance UID with several values",
    "UNSUPPORTED_SOP": "a SOP class without an allow-list",
    "UNSUPPORTED_SYNTAX": "a transfer syntax that is not read",
    "PIXEL_LENGTH": "pixel data whose length is not rows × columns × samples × bits × frames, or with other fragments than frames",
    "PIXEL_BOMB": "more pixels than the policy's max_megapixels",
    "PIXELS_UNREADABLE": "pixel data that has to be looked at and does not decode, or a compressed stream that cannot be walked",
    "TEXT_UNCHECKED": "can hold burned-in text, and OCR is not installed: pip install 'fedvision[dicom]'",
    "TEXT_REMAINS": "text is still read in the pixels after they were blanked",
    "HEAD_VOLUME": "a volume of the head, from which a face can be rendered; the policy rejects them",
    "UID_CONFLICT": "two different objects with one SOP instance UID; both are held back",
    "SELF_CHECK": "the independent check of the written file found something that must not be in it",
    "TIMEOUT": "over the CPU time that one file may take, or blocked for ten times as long",
    "CRASHED": "its worker process died",
}


def explain(code: str) -> str:
    """What a code or kind means."""
    return CODES.get(code) or SKIPS.get(code, "")


class Refused(Exception):
    """A file that ends in quarantine, under one of `CODES`; carries no value of it."""

    def __init__(self, code: str):
        super().__init__(f"{code}: {CODES[code]}")
        self.code = code


class Skipped(Exception):
    """A file that is no DICOM object to de-identify, of one of the kinds in `SKIPS`."""

    def __init__(self, kind: str):
        super().__init__(f"{kind}: {SKIPS[kind]}")
        self.kind = kind


OF_THE_RUN = {
    "fresh",
    "waiting",
    "set_aside",
    "seconds",
    "sync_seconds",
}  # how a run went: no part of what it leaves, however often it was stopped


@dataclass
class Summary:
    """What a run did: every input in one state.  Times in seconds."""

    inputs: int = 0
    states: dict[str, int] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    outputs: int = 0
    fresh: int = 0
    waiting: int = 0
    set_aside: int = 0
    seconds: float = 0.0
    sync_seconds: float = 0.0
    head: dict[str, Any] = field(default_factory=dict)

    @property
    def adds_up(self) -> bool:
        """Whether each input is in exactly one state."""
        return self.inputs == sum(self.states.values())

    def as_json(self) -> dict[str, Any]:
        """The counts, as summary.json and --json give them."""
        return {
            "inputs": self.inputs,
            "states": self.states,
            "codes": self.codes,
            "adds_up": self.adds_up,
            "outputs": self.outputs,
            "fresh": self.fresh,
            "waiting": self.waiting,
            "set_aside": self.set_aside,
            "seconds": round(self.seconds, 3),
            "sync_seconds": round(self.sync_seconds, 3),
            **self.head,
        }
