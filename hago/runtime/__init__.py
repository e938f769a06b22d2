"""What a compiled network needs to run: the artifact, its checksum, threads, AMX. No compiler, no ONNX."""
