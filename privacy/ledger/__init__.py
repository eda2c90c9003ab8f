"""The record of what a run spends: chains of signed entries, and how they are checked.  docs/ledger.md has the format."""
