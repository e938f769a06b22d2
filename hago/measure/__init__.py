"""Latency and accuracy of runners, with their errors, and the environment of the measurement.

Import from the modules: `environment`, `metrics` and `running` are light, `accuracy` and `latency` need scipy.
"""
