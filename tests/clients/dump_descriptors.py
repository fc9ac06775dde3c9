"""Run inside a client's environment: writes the descriptors of its modules to standard output.

usage: python dump_descriptors.py yandex/cloud/compute/v1/image.proto ...
"""

import importlib
import sys

from google.protobuf import descriptor_pb2


def main() -> None:
    """Imports the module of each .proto file named and writes one FileDescriptorSet."""
    dumped = descriptor_pb2.FileDescriptorSet()
    for name in sys.argv[1:]:
        module = name.removesuffix(".proto").replace("/", ".") + "_pb2"
        importlib.import_module(module).DESCRIPTOR.CopyToProto(dumped.file.add())
    sys.stdout.buffer.write(dumped.SerializeToString())


if __name__ == "__main__":
    main()
