from hago.runtime.executor import Executor

EXECUTOR = Executor("toy", kind="cpu", shared_memory=False, timed_by_cpu=False)
