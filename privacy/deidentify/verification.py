"""An output folder checked again, without the originals: the files are those of the manifest, and each holds only
what it may."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedvision.schema import validate
from privacy.deidentify import manifest, modules, selfcheck
from privacy.deidentify.intake import walk
from privacy.deidentify.policy import Policy
from privacy.deidentify.reader import parse
from privacy.deidentify.states import Refused, Skipped

OWN = {manifest.MANIFEST, manifest.SUMMARY, "report.html"}


@dataclass
class Result:
    """Files checked, and a finding (name, what) for each thing that is wrong."""

    files: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Files, findings, and whether there are none."""
        return {"files": self.files, "findings": self.findings, "ok": not self.findings}


def verify(out: Path) -> Result:
    """Check every file of `out`.  DataError where it has no manifest or summary."""
    summary = manifest.read_summary(out)
    policy: Policy = validate(Policy, summary.get("policy", {}), str(out / manifest.SUMMARY))
    result, expected = Result(), set()
    digest = hashlib.sha256((out / manifest.MANIFEST).read_bytes()).hexdigest() if (out / manifest.MANIFEST).exists() else ""
    if digest and digest != summary.get("manifest_sha256"):
        result.findings.append({"name": manifest.MANIFEST, "what": "not the manifest that summary.json was written for"})
    for row in manifest.read(out):
        expected.add(row["name"])
        result.files += 1
        result.findings += [{"name": row["name"], "what": what} for what in _file(out, row, policy)]
    result.findings += _others(out, expected)
    counted = sum(summary.get("states", {}).values())
    if counted != summary.get("inputs"):
        result.findings.append({"name": manifest.SUMMARY, "what": f"{summary.get('inputs')} inputs, but {counted} states"})
    return result


def _file(out: Path, row: dict[str, Any], policy: Policy) -> list[str]:
    """What is wrong with one file."""
    path = out / row["name"]
    if ".." in path.parts or path.is_symlink():
        return ["a name that leads out of the folder"]
    try:
        written = path.read_bytes()
    except OSError:
        return ["in the manifest, but not in the folder"]
    if len(written) != row["bytes"] or hashlib.sha256(written).hexdigest() != row["sha256"]:
        return ["its bytes are not those of the manifest"]
    try:
        parsed = parse(written)
    except (Refused, Skipped) as error:
        return [f"is no readable DICOM file: {error}"]
    sop_class = parsed.text(0x00080016)
    if not modules.name(sop_class):
        return ["an object of a class without an allow-list"]
    try:
        selfcheck.check_form(written, policy, sop_class, tuple(row["codes"]), parsed.syntax)
    except selfcheck.Leak as leak:
        return [str(leak)]
    return []


def _others(out: Path, expected: set[str]) -> list[dict[str, str]]:
    """Files of the folder that the manifest does not have.  They are numbered, not named: a name could be a
    patient's."""
    root = os.fsencode(out.resolve()) + b"/"
    others = 0
    for item in walk(root.rstrip(b"/")):
        name = os.fsdecode(item.path[len(root) :])
        others += name not in expected and name not in OWN and not name.startswith(".partial/")
    return [{"name": "(folder)", "what": f"{others} files that are not in the manifest"}] if others else []
