"""A lesion simulator on real anatomy, and the small synthetic collection that it writes.

The anatomy is nilearn's MNI152 average with a skull, a scalp and a face grown around it; each
patient has a deformation, a contrast and a lesion of their own. Coordinates are MNI millimetres (x
to the right, y to the front, z to the top); signals are multiples of white matter's.
"""

from brainlib.data.phantom.collection import COLUMNS, write_phantom
from brainlib.data.phantom.patient import Slice, simulate_patient
from brainlib.data.phantom.scanner import PLANES

PHANTOM_VERSION = "2"
"""Changes whenever the pixels of a seed do."""

__all__ = ["COLUMNS", "PHANTOM_VERSION", "PLANES", "Slice", "simulate_patient", "write_phantom"]
