"""Hardware specs as data, one YAML file per device or family. This package contains no code."""
