"""Ranges of activations: one pass over the samples serves every method.

Values alone; the pass that compiles and runs the float model for it is `hago.tuning.calibrating`.
"""

from .calibration import Calibration, calibrate, calibration_fingerprint
from .zero_point import scale_zero_point

__all__ = ["Calibration", "calibrate", "calibration_fingerprint", "scale_zero_point"]
