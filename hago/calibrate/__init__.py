"""Ranges of activations: one pass over the samples serves every method.

Only values; `hago.tuning.calibrating` compiles and runs the float model for the pass.
"""

from .calibration import Calibration, calibrate, calibration_fingerprint
from .zero_point import scale_zero_point

__all__ = ["Calibration", "calibrate", "calibration_fingerprint", "scale_zero_point"]
