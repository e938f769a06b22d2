"""Latency and accuracy of runners, with their errors, and the machine they were measured on.

Import from the modules: `environment`, `metrics` and `running` are light, `accuracy` and `latency` need scipy.
"""
