"""Weights from a local file: which file is said by its path and, where that matters, by its hash."""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from fedvision.errors import ConfigError

TORCH_SUFFIXES = {".pt", ".pth", ".bin"}


def read_weights(model: nn.Module, path: Path, sha256: str | None = None, without: Sequence[str] = ()) -> None:
    """Set the tensors of `model` from a safetensors file, or from a torch file of tensors alone.

    sha256: hexadecimal, of the file's bytes.  without: names or patterns of tensors that keep the values they have.
    ConfigError where the file cannot be read, is another than was meant, or is of another model.
    """
    if sha256 is not None:
        _check_hash(path, sha256)
    state = _read(path)
    own = model.state_dict()
    kept = {name for name in own if any(fnmatchcase(name, pattern) for pattern in without)}
    unused = next((p for p in without if not any(fnmatchcase(name, p) for name in own)), None)
    if unused is not None:
        raise ConfigError(f"model.weights_except = {unused!r} is no tensor of this model; its last ones are {', '.join(list(own)[-2:])}")
    wanted = {name: t for name, t in own.items() if name not in kept}
    given = {name: t for name, t in state.items() if name not in kept}
    wrong = [n for n in wanted if n not in given or given[n].shape != wanted[n].shape] + [n for n in given if n not in wanted]
    if wrong:
        raise ConfigError(
            f"model.weights = {str(path)!r} is not of this model: {len(wrong)} tensors differ, first {wrong[0]!r}"
            f"{_shapes(wrong[0], wanted, given)}; where they are to be drawn anew, name them in model.weights_except"
        )
    model.load_state_dict(given, strict=False)


def _check_hash(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"model.weights = {str(path)!r} cannot be read: {error.strerror}") from None
    if found != sha256:
        raise ConfigError(
            f"model.weights = {str(path)!r} has the SHA-256 {found}, and model.weights_sha256 is {sha256}: it is another file than was meant"
        )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors in a file, by name."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix not in TORCH_SUFFIXES:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"model.weights = {str(path)!r} cannot be read as safetensors: {error}") from None
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # tensors alone: no code of the file is run
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"model.weights = {str(path)!r} cannot be read as a torch file of tensors: {str(error).splitlines()[0]}"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ConfigError(f"model.weights = {str(path)!r} holds no tensors by name; save model.state_dict() to it")
    return state


def _shapes(name: str, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    said = [f"{list(tensors[name].shape)} {where}" for tensors, where in ((given, "in the file"), (wanted, "here")) if name in tensors]
    return f" ({', '.join(said)})"
