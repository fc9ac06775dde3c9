"""Claims durable operations and runs them under a lease."""
