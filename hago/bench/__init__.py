"""Where candidates are timed: this machine, boards, the emulator. Import from the modules."""
