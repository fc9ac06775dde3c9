"""Made from the .proto files by `make generate`; changes here are lost."""
