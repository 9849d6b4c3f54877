"""Images and where they are in the patient: grids, resampling, files, labels and landmarks.

Knows numpy, and SimpleITK for files; torch only inside functions that resample. A room's `__init__` holds its
description alone: names are imported from the file that has them, so that importing costs no more than is used (no
torch before it is needed).
"""
