"""Hardware specs as data: one YAML per device or family. No code lives here."""
