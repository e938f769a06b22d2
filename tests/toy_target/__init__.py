"""A target of its own, outside of Hago: one kernel family over the templates of processors, memory that is copied."""
