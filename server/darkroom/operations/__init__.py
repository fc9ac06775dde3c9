"""One file per kind of operation, both halves together: begin() in the RPC, run() in a worker."""
