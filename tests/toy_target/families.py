from dataclasses import replace

from hago.kernels.cpu.families import AVX2

FAMILIES = {"toy-family": replace(AVX2, name="toy-family")}
PRECISIONS = frozenset({"float32", "int8"})
