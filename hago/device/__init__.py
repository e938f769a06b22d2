"""Machines that networks run on: this one, boards reached over TVM's RPC, and emulated ones.

config.py        devices.yaml -> Device
remote.py        sessions with a device: upload, run, time
spec_check.py    compares a device with its spec; gpu_check.py does so for a GPU
gpus.py          the GPU of this machine, and the spec that fits it
sockets.py       the connections behind sessions, cut when a device hangs
device_pool.py   several devices of one kind, any of which may fail
places.py        names -> bench
emulated.py      AArch64 under QEMU, as an RPC server on this machine
"""
