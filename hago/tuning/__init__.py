"""One tuning job from model and samples to the answer: sessions, evaluators, several devices.

Import from the modules: most of them need TVM.
"""
