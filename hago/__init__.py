"""Hago: which layers of a network should run at which precision on this hardware."""
