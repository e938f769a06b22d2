from dataclasses import replace

from hago.kernels.cpu.backend import BACKEND as PROCESSORS

from .executor import EXECUTOR
from .families import FAMILIES

BACKEND = replace(PROCESSORS, name="toy", families=FAMILIES, executor=EXECUTOR)
