"""What a site decides: the options of CID 7050, what head volumes may do, the site's own words, and the limits."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fedvision.schema import Section, read_yaml, validate

MEANINGS = {  # CID 7050
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113106": "Retain Longitudinal Temporal Information Full Dates Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
    "113112": "Retain Institution Identity Option",
}
CLEAN_PIXELS = "113101"
EDITION = "PS3.15 2025e"

Code = Literal[
    "113100",
    "113101",
    "113102",
    "113103",
    "113104",
    "113105",
    "113106",
    "113107",
    "113108",
    "113109",
    "113110",
    "113111",
    "113112",
]


class Policy(Section):
    """How a site de-identifies.  The basic profile, 113100, always applies."""

    options: list[Code] = Field(default=["113101", "113107"], description="options of CID 7050 beside the basic profile 113100")
    head_volumes: Literal["reject", "allow"] = Field(
        default="reject", description="CT, MR and PT slices of the head, from which a face can be rendered"
    )
    head_volumes_reason: str = Field(default="", max_length=200, description="why head volumes are allowed; goes into the manifest")
    institutions: list[str] = Field(default=[], description="names that option 113112 keeps; any other is removed")
    structures: list[str] = Field(default=[], description="names of segments and regions of interest that pass beside TG-263")
    max_file_mib: int = Field(default=2048, ge=1, description="largest file, MiB")
    max_megapixels: int = Field(default=4096, ge=1, description="most pixels of one object, frames included, millions")
    seconds_per_file: int = Field(
        default=900, ge=1, description="CPU time that one file may take, seconds; by the clock, ten times as long"
    )
    memory_mib: int = Field(default=8192, ge=512, description="address space of a worker process, MiB")

    @model_validator(mode="after")
    def _can_be_done(self) -> "Policy":
        chosen = set(self.options)
        if {"113106", "113107"} <= chosen:
            raise ValueError("options: 113106 keeps full dates and 113107 modifies them; choose one")
        if "113102" in chosen:
            raise ValueError("options: 113102 needs a program that removes faces, and there is none here; leave it out")
        for code in sorted(chosen & {"113103", "113104"}):
            raise ValueError(f"options: {code} ({MEANINGS[code]}) cleans what is not passed at all; leave it out")
        if self.head_volumes == "allow" and not self.head_volumes_reason.strip():
            raise ValueError("head_volumes = allow needs head_volumes_reason, which goes into the manifest")
        return self

    @property
    def codes(self) -> list[str]:
        """The codes of what is done to every header, in order: the basic profile and the options."""
        return sorted({"113100", *self.options})


def read_policy(path: Path | None) -> Policy:
    """The policy in a YAML file; the defaults where there is none."""
    return Policy() if path is None else validate(Policy, read_yaml(path), str(path))


def rule_set(policy: Policy) -> str:
    """SHA-256 over every rule that decides what passes: the standard's tables, the allow-lists, the words, the
    policy."""
    digest = hashlib.sha256(_rules())
    limits = {"max_file_mib", "max_megapixels", "seconds_per_file", "memory_mib"}
    digest.update(json.dumps(policy.model_dump(exclude=limits), sort_keys=True).encode())
    return digest.hexdigest()


@cache
def _rules() -> bytes:
    folder = files("privacy.deidentify")
    names = [
        "profile.tsv",
        "safe_private.tsv",
        "modules.py",
        "terms.py",
        "profile.py",
        "values.py",
        "attributes.py",
        "cleaner.py",
        "pixels.py",
        "streams.py",
        "burned_in.py",
        "lettering.py",
    ]
    return b"\0".join(folder.joinpath(name).read_bytes() for name in names)
