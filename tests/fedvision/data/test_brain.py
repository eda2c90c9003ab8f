"""Simulated brains: what a scanner shows, and what its masks say, are made apart."""

import numpy as np
import pytest

from fedvision.data import brain


def _templates(monkeypatch: pytest.MonkeyPatch, labels: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All images and masks of one subject a scanner, from a made-up template with these labels."""
    z, y, x = np.mgrid[:60, : brain.HEIGHT, : brain.WIDTH] / 60
    t1 = (0.5 + 0.4 * np.sin(9 * x + z) * np.cos(7 * y)).astype(np.float32)
    monkeypatch.setattr(brain, "template", lambda: (t1, labels))
    return brain._scanned(1, 2, None)


def test_no_scanner_paints_the_masks_into_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (60, brain.HEIGHT, brain.WIDTH)
    halves = np.broadcast_to((np.arange(brain.WIDTH) > 40).astype(np.uint8), shape)
    (images, known), (same, empty) = (_templates(monkeypatch, own) for own in (halves, np.zeros(shape, np.uint8)))
    assert np.array_equal(images, same) and known["masks"].any() and not empty["masks"].any()
    assert images.shape == (8, 1, brain.HEIGHT, brain.WIDTH) and images.min() < 60 and images.max() > 220
    assert known["scanner"].tolist() == [name for name in brain.SCANNERS for _ in range(2)] and len(set(known["subject"].tolist())) == 4
