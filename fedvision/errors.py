"""Every exception that fedvision raises on purpose, and the exit code that the command line gives it.

    FedvisionError                exit 1
    ├── ConfigError               exit 2   a key, value or combination in a config that cannot be
    │   └── ModelRefused          exit 2   a model, loss or algorithm that a protection cannot protect
    ├── BudgetExhausted           (caught by the site: a step that its plan does not pay for -> Declined)
    │   └── AccountExhausted      (caught by the site: over a limit of its own account; the message stays with the site)
    ├── DataError                 exit 1   images, labels or manifests that cannot be used
    │   └── CorruptImage
    ├── UpdateRefused             (caught by the coordinator: a site's reply that is not what was asked for)
    ├── Malformed                 (caught at both ends of a network: a message that does not hold what it should)
    ├── OutOfRange                (caught by the site: a value that the run's fixed point cannot hold -> Declined)
    ├── AggregationRefused        (secure aggregation: a message that a site or the coordinator does not act on, by the name of a check)
    ├── RoundFailed               exit 1   a round that did not get its minimum number of replies
    ├── EngineError               exit 1   workers or a cluster that cannot be started or died for good
    ├── RunFolderError            exit 1   a run folder that cannot be written, read or resumed
    └── LedgerDamaged             exit 1   a record of what was spent that is not as it was written (a site declines)

A site that says no is not an error: it is the value `fedvision.types.Declined`.
"""


class FedvisionError(Exception):
    """The root: whatever fedvision raises on purpose, with a message that names the thing, the value and the way out."""

    exit_code = 1


class ConfigError(FedvisionError):
    """A config that cannot be run: names the key, the value, what is allowed and the nearest key."""

    exit_code = 2


class ModelRefused(ConfigError):
    """A model, loss or algorithm whose steps a protection cannot bound: names the layer and what to change."""


class BudgetExhausted(FedvisionError):
    """A step that would spend more than was planned; the site answers `Declined` before anything is computed."""


class AccountExhausted(BudgetExhausted):
    """A step over a limit of the site's own account: the message says which, and is for the site alone."""


class DataError(FedvisionError):
    """Images, labels or a manifest that cannot be used; names the file or column."""


class CorruptImage(DataError):
    """An image that does not decode; names the file."""


class UpdateRefused(FedvisionError):
    """A site's reply that is not what was asked for.  `code` is short and fixed, for counting."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Malformed(FedvisionError):
    """A message that does not hold what it should: names the part that is wrong, and never its content."""


class OutOfRange(FedvisionError):
    """A value that the run's fixed point cannot hold; the site answers `Declined` instead of saturating."""


class AggregationRefused(FedvisionError):
    """A message of secure aggregation that is not acted on.  `check` is the name of the check that it did not pass."""

    def __init__(self, check: str, message: str):
        super().__init__(message)
        self.check = check


class RoundFailed(FedvisionError):
    """A round that did not get `federation.min_replies` replies, where the config says to stop."""


class EngineError(FedvisionError):
    """Workers or a cluster that cannot be started, or died more often than they may."""


class RunFolderError(FedvisionError):
    """A run folder that cannot be written, read or resumed."""


class LedgerDamaged(FedvisionError):
    """A record of what was spent that is not as it was written: names the file, the line and what is wrong with it."""
