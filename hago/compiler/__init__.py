"""Lowered graphs -> artifacts: building, the kernel cache, linking, and conformance with the reference.

Import from the modules: `cache` must not load TVM's compiler, which `build` needs.
"""
