"""Lesion simulator on real anatomy, and the small synthetic collection made with it.

The anatomy is nilearn's MNI152 average with a skull, a scalp and a face grown around it; each
patient has an individual deformation, contrast and lesion. Coordinates are MNI millimetres (x to
the right, y to the front, z to the top); signals are multiples of white matter's.
"""

# ruff: noqa: F401

from brainlib.paths import needs_extra

with needs_extra("notebooks"):
    from brainlib.data.phantom.anatomy import PLANES, Slice, simulate_patient
    from brainlib.data.phantom.collection import PHANTOM_VERSION, open_phantom, write_phantom
