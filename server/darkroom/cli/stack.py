"""What a client of a running development stack knows: its addresses and its object storage."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BUCKET = "images"
LINK_SECONDS = 6 * 3600
"""How long a pre-signed link of the stack works."""

_REGION = "us-east-1"
_FILE = "stack.json"
_LOCK = "stack.lock"
_PRIVATE_FILE = 0o600


class StackError(Exception):
    """The stack cannot do what was asked; the text says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """Kept in a file of the data folder that only its owner can read."""

    listen: str
    tls_listen: str
    gateway_listen: str
    storage_url: str
    access_key: str
    secret_key: str

    @staticmethod
    def on(
        data_dir: Path, listen: str, tls_listen: str, gateway_listen: str, storage_url: str
    ) -> "Stack":
        """Describe the stack that starts on this folder, in the file that its clients read.

        The credentials are those of the last time, so that imports that were interrupted with the
        stack can still fetch from their links.
        """
        try:
            last = _read(data_dir)
            keys = (last.access_key, last.secret_key)
        except (OSError, ValueError, TypeError):
            keys = (secrets.token_hex(8), secrets.token_hex(20))
        stack = Stack(listen, tls_listen, gateway_listen, storage_url, *keys)
        descriptor = os.open(data_dir / _FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE_FILE)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(stack), file)
        return stack

    @staticmethod
    def running(data_dir: Path) -> "Stack":
        """The stack that runs on this folder. Raises `StackError` if none does."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            stack = _read(data_dir)
            try:
                with only_stack(data_dir):
                    pass
            except StackError:
                return stack
        raise StackError(f"no stack runs on {data_dir}: start one with `make run`")

    def upload(self, path: Path, key: str) -> str:
        """Upload a file into the bucket; returns a pre-signed URL. Raises `StackError`."""
        # Imported late, here and below: it takes longer than the rest of the command line together.
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        client = self._client(attempts=5)
        try:
            client.upload_file(str(path), BUCKET, key)
        except (OSError, Boto3Error, BotoCoreError, ClientError) as error:
            raise StackError(f"cannot upload {path}: {error}") from error
        target = {"Bucket": BUCKET, "Key": key}
        return str(client.generate_presigned_url("get_object", target, ExpiresIn=LINK_SECONDS))

    def make_bucket(self) -> bool:
        """Whether the bucket is there now; false while the storage does not answer yet."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client(attempts=1).create_bucket(Bucket=BUCKET)
        except ClientError as error:
            return str(error.response["Error"]["Code"]).startswith("BucketAlready")
        except BotoCoreError:
            return False
        return True

    def _client(self, attempts: int) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.storage_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=_REGION,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": attempts},
                s3={"addressing_style": "path"},
                # No proxy has a way to this machine's loopback address.
                proxies={},
            ),
        )


def _read(data_dir: Path) -> Stack:
    return Stack(**json.loads((data_dir / _FILE).read_text()))


@contextlib.contextmanager
def only_stack(data_dir: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel lets go with the process.

    Raises `StackError` if another process holds it.
    """
    with (data_dir / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"a stack runs on {data_dir} already") from None
        yield
