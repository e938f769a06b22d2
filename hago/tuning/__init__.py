"""One job from model and samples to its answer: sessions, evaluators, several devices.

Import from the modules: most of them need TVM.
"""
