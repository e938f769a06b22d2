"""Machines that networks run on: this one, boards reached over TVM's RPC, and emulated ones.

config.py     devices.yaml -> Device
remote.py     a session with a device: upload, run, time
check.py      what a device is, against what its spec says
emulated.py   AArch64 under QEMU, as an RPC server on this machine
"""
