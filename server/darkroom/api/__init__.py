"""gRPC in, gRPC out: servicers, interceptors, validation, status details, conversion."""
