"""A MONAI dictionary data set with its transforms.  Used by monai_data.yaml; needs the package `monai`.

Here the dictionaries hold arrays that are made on the spot; with `LoadImaged(keys="image")` as the first transform they hold
the names of your files.
"""

import numpy as np
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, EnsureChannelFirstd, Resized, ScaleIntensityRanged

from fedvision.data.adapters import from_dictionaries
from fedvision.data.dataset import Dataset
from fedvision.seeds import stream

WINDOW = (-100.0, 300.0)  # what is shown between black and white: a constant, and not what one image happens to hold


def scans(*, patients: int = 40, side: int = 24) -> Dataset:
    """Four slices of each patient, with or without a bright lesion; a patient is a subject and is never split."""
    window = ScaleIntensityRanged(keys="image", a_min=WINDOW[0], a_max=WINDOW[1], b_min=0.0, b_max=1.0, clip=True)
    transforms = Compose(
        [EnsureChannelFirstd(keys="image", channel_dim="no_channel"), window, Resized(keys="image", spatial_size=(side, side))]
    )
    items = [slice_of(patient, number) for patient in range(patients) for number in range(4)]
    return from_dictionaries(
        MonaiDataset(items, transforms), subject="patient", columns=["scanner"], classes=["healthy", "lesion"], name="monai scans"
    )


def slice_of(patient: int, number: int) -> dict[str, object]:
    """A dictionary as MONAI has them: image float32 [32,32], label, patient, scanner."""
    rng = stream(0, "monai_data", patient, number)
    y, x = np.mgrid[:32, :32] - 16
    image = np.where(np.hypot(x / 13, y / 15) < 1, 40.0, -90.0) + rng.normal(0, 10 + 5 * (patient % 4), (32, 32))
    label = patient % 2
    if label:
        centre = rng.uniform(-7, 7, 2)
        image += 200 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 8)
    return {"image": image.astype(np.float32), "label": label, "patient": f"patient-{patient:02}", "scanner": f"scanner-{patient % 4}"}
