"""Machines that networks run on: this one, boards reached over TVM's RPC, and emulated ones.

config.py        devices.yaml -> Device
remote.py        a session with a device: upload, run, time
spec_check.py    what a device is, against what its spec says
sockets.py       the connections behind sessions, to be cut when a device hangs
device_pool.py   several devices of one kind, any of which may die
places.py        names -> bench
emulated.py      AArch64 under QEMU, as an RPC server on this machine
"""
