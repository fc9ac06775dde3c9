"""Pure meaning: images, operations, contents, failures. No gRPC, no SQL, no I/O."""
