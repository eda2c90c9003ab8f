"""What a folder or a manifest names, before any of it is read."""

from dataclasses import dataclass, field


@dataclass
class Listing:
    """What is to be read: file names under the root, a label each, and what else is known, in the same order."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
