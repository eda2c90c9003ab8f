"""Finding objects: boxes and their overlaps, how what was found is counted, and the losses of the detectors, a loss an image."""
