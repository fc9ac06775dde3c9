"""REST in front of gRPC: what Envoy is told to do. The transcoding itself is Envoy's."""
