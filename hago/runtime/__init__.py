"""What a compiled network needs to run: the artifact, its seal, threads and AMX. No compiler, no ONNX."""
