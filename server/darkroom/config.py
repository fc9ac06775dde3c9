"""Every setting once: flag, environment variable, default and meaning."""

import argparse
import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from darkroom.domain.audit import RETENTION_SECONDS as AUDIT_RETENTION_SECONDS
from darkroom.domain.operation import RETENTION_SECONDS
from darkroom.domain.places import DEFAULT_ZONES, DISK_TYPE_DESCRIPTIONS, Folders, Places
from darkroom.imaging.sources import SourceEndpoint, parse_endpoint

_S3_URL = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)/?"
)
DEFAULT_TOKEN_SECONDS = 3600
MAX_TOKEN_SECONDS = 12 * 3600
"""The longest that the cloud's tokens live (cloud docs)."""
PUBLIC_OBJECT_STORAGE = "https://storage.yandexcloud.net/"
MAX_CONCURRENT_STREAMS = 100
"""Per connection: what keeps one client's rapid resets from everybody else's calls."""


class SettingError(ValueError):
    """A setting has a value that cannot be used; the text says which, why and what to do."""


def _setting(default: Any, help_text: str, parse: Callable[[str], Any] = str) -> Any:
    metadata = {"help": help_text, "parse": parse}
    if isinstance(default, tuple):
        return field(default=default, metadata={**metadata, "repeatable": True})
    return field(default=default, metadata=metadata)


def _whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number, at least {minimum}") from None
        if value < minimum:
            raise ValueError(f"must be at least {minimum}")
        if maximum is not None and value > maximum:
            raise ValueError(f"must be at most {maximum}")
        return value

    return parse


def _rate(text: str) -> int:
    """0, or so much that no connection looks as if it had stalled."""
    value = _whole_number(0)(text)
    if 0 < value < 1024**2:
        raise ValueError("must be 0 or at least 1048576")
    return value


def _seconds(minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value < math.inf:
            raise ValueError(f"must be a number of seconds, at least {minimum}")
        return value

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be true or false")


def _header(text: str) -> str:
    if text and not re.fullmatch(r"[a-z0-9_.-]+", text):
        raise ValueError("must be the name of a header, in small letters")
    if text == "authorization" or text.endswith("-bin"):
        raise ValueError("must be another header")
    return text


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise ValueError("must be HOST:PORT")
    return text


def _ratio(text: str) -> float:
    value = _seconds(0.0)(text)
    if value > 1:
        raise ValueError("must be a number from 0 to 1")
    return value


def _http_url_or_nothing(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", text):
        raise ValueError("must be http:// or https://, a host and a path, and nothing secret")
    return text


def _listen_or_nothing(text: str) -> str:
    return _listen(text) if text else text


@dataclass(frozen=True)
class Settings:
    """Frozen at start-up. The flag of `data_dir` is `--data-dir`, its variable DARKROOM_DATA_DIR.

    A flag wins over a variable, a variable over the default. A repeatable setting takes several
    flags, or one variable with its values separated by spaces.
    """

    data_dir: Path = _setting(
        Path("darkroom-data"), "Folder of everything the embedded defaults keep.", Path
    )
    listen: str = _setting(
        "127.0.0.1:50051", "Address of the plaintext gRPC listener; port 0 picks one.", _listen
    )
    xds: bool = _setting(
        False,
        "Have a control plane say by xDS when `--listen` is opened, and with which mutual TLS, as "
        "in a mesh without proxies; GRPC_XDS_BOOTSTRAP names it, as for every gRPC program.",
        _flag,
    )
    tls_listen: str = _setting(
        "127.0.0.1:50443",
        "Address of the TLS listener; port 0 picks one. Empty: none.",
        _listen_or_nothing,
    )
    tls_certificate: str = _setting(
        "",
        "PEM file with the certificate of the TLS listener and what stands between it and its "
        "authority; re-read when it changes. Empty: one for this machine is made, for development.",
    )
    tls_key: str = _setting("", "PEM file with the key of `--tls-certificate`.")
    tls_client_ca: str = _setting(
        "",
        "PEM file of the authorities whose certificates clients of the TLS listener must show; "
        "re-read when it changes. Empty: they show none.",
    )
    advertise: str = _setting(
        "",
        "HOST:PORT that endpoint discovery names on the plaintext listener. Empty: what the "
        "caller itself used.",
        _listen_or_nothing,
    )
    tls_advertise: str = _setting("", "The same on the TLS listener.", _listen_or_nothing)
    auth_mode: str = _setting(
        "none",
        "How callers prove who they are. `none`: nobody is asked, everybody may do everything, for "
        "development. `iam`: accounts of `--access-dir`, with tokens of this service. `mesh`: "
        "`--mesh-peer` says who they are. `oidc`: tokens of the issuers in `--access-dir`.",
        _one_of("none", "iam", "mesh", "oidc"),
    )
    expose_unauthenticated: bool = _setting(
        False,
        "Listen beyond loopback with `--auth-mode none`: whoever reaches the port may do "
        "everything. Dangerous.",
        _flag,
    )
    access_dir: str = _setting(
        "",
        "Folder of YAML files with accounts, groups and roles, re-read when they change; `darkroom "
        "account` writes there. Empty: `access` in the data folder.",
    )
    token_lifetime: int = _setting(
        DEFAULT_TOKEN_SECONDS,
        "Seconds for which the tokens of IamTokenService are good, at most 43200.",
        _whole_number(60, MAX_TOKEN_SECONDS),
    )
    mesh_peer: tuple[str, ...] = _setting(
        (),
        "SPIFFE id or other URI, or DNS name, in the certificate of a sidecar or gateway that may "
        "say who calls. For `--auth-mode mesh`, on the TLS listener. Repeatable.",
    )
    mesh_subject_header: str = _setting(
        "x-darkroom-subject",
        "Header in which it says so, as TYPE:ID; or `x-forwarded-client-cert`, whose last URI is "
        "then a service account.",
        _header,
    )
    mesh_groups_header: str = _setting(
        "x-darkroom-groups",
        "Header in which it may name the caller's groups, separated by commas. Empty: none.",
        _header,
    )
    oidc_loopback_http: bool = _setting(
        False,
        "Take issuers on loopback that speak plain HTTP. For tests.",
        _flag,
    )
    reflection: str = _setting(
        "auto",
        "Server reflection: `on`, `off`, or `auto`: on with `--auth-mode none` only.",
        _one_of("auto", "on", "off"),
    )
    gateway_listen: str = _setting(
        "127.0.0.1:8080",
        "Address of the gateway (`darkroom gateway`) for REST, gRPC and gRPC-Web.",
        _listen_or_nothing,
    )
    gateway_upstream: str = _setting(
        "",
        "HOST:PORT of the server behind the gateway, in plaintext. Empty: that of `--listen`.",
        _listen_or_nothing,
    )
    gateway_allow_origin: tuple[str, ...] = _setting(
        (),
        "Origin (`https://HOST[:PORT]`) whose pages may call the gateway from a browser. "
        "Repeatable. None: calls from pages are refused.",
    )
    gateway_admin_listen: str = _setting(
        "",
        "Address of Envoy's administration interface in the gateway. Whoever reaches it can stop "
        "the gateway. Empty: a socket that only its owner can open.",
        _listen_or_nothing,
    )
    database_url: str = _setting(
        "",
        "Where metadata is kept: `sqlite:PATH` or `postgresql://USER@HOST/NAME`. A password stands "
        "in the variable, in PGPASSWORD or in a passfile, never in the flag. Empty: "
        "`metadata.sqlite` in the data folder.",
    )
    database_connections: int = _setting(
        10,
        "Connections to PostgreSQL that one process has at once; one more, in a worker, waits to "
        "be woken.",
        _whole_number(2),
    )
    content_url: str = _setting(
        "",
        "Where image contents are kept: `file:PATH`, or `s3://BUCKET/PREFIX` with endpoint, region "
        "and credentials from the standard AWS variables and files. Empty: `contents` in the data "
        "folder.",
    )
    secret_key_file: str = _setting(
        "",
        "Keys that seal pre-signed URLs at rest, one base64 key of 32 bytes a line, the first one "
        "seals. Empty: `secret.key` in the data folder, made on first start.",
    )
    source_allow: tuple[str, ...] = _setting(
        (PUBLIC_OBJECT_STORAGE,),
        "URL of an object storage that Create with `uri` may fetch from: scheme, host, port and "
        "leading path segments must agree. On loopback the port may be `*`, for tests. "
        "Repeatable; naming one replaces the default.",
    )
    catalog: str = _setting(
        "", "YAML file of images that are made at start-up, once, for everyone. Empty: none."
    )
    workers: int = _setting(
        1, "Worker processes that `serve` starts beside itself; 0 for none.", _whole_number(0)
    )
    max_virtual_size: int = _setting(
        4 * 1024**4, "Largest virtual size of an imported image, bytes.", _whole_number(1)
    )
    max_source_size: int = _setting(
        64 * 1024**3, "Largest object that is downloaded for an import, bytes.", _whole_number(1)
    )
    max_source_rate: int = _setting(
        0,
        "Bytes per second that one import downloads at most, at least 1048576; 0 for as fast as "
        "it goes.",
        _rate,
    )
    max_stored_size: int = _setting(
        64 * 1024**3,
        "Largest file that a conversion may write, bytes: what stops a compression bomb.",
        _whole_number(1),
    )
    compression: str = _setting(
        "none",
        "Compression of stored images: `none` is fast, `zstd` is small.",
        _one_of("none", "zstd"),
    )
    allow_unconfined_conversion: bool = _setting(
        False,
        "Import even where the kernel offers neither user namespaces nor Landlock. Dangerous.",
        _flag,
    )
    cloud_id: str = _setting(
        "b1gdarkroom000000000", "Id of the one cloud that clients find when they look for clouds."
    )
    organization_id: str = _setting(
        "bpfdarkroom000000000",
        "Id of the organization that every user belongs to: the one of the system subject "
        "`group:organization:ID:users`.",
    )
    folder: tuple[str, ...] = _setting(
        ("b1gdefault0000000000=default",),
        "ID=NAME of a folder that clients find when they look for folders. Any other id is a "
        "folder too. Repeatable; naming one replaces the default.",
    )
    zone: tuple[str, ...] = _setting(
        DEFAULT_ZONES, "Zone that disks can be in. Repeatable; naming one replaces the default."
    )
    disk_type: tuple[str, ...] = _setting(
        tuple(DISK_TYPE_DESCRIPTIONS),
        "Type that disks can have. Repeatable; naming one replaces the default.",
    )
    operation_delay: float = _setting(
        0.0,
        "Development: hold operations that could end at once open for this many seconds, so that "
        "clients can practise polling and cancelling.",
        _seconds(0.0),
    )
    operation_retention: int = _setting(
        RETENTION_SECONDS,
        "Seconds for which operations that have ended are kept, with their idempotency keys: two "
        "weeks, as in the cloud.",
        _whole_number(60),
    )
    audit_retention: int = _setting(
        AUDIT_RETENTION_SECONDS,
        "Seconds for which entries of the audit log (`darkroom audit`) are kept: ninety days.",
        _whole_number(60),
    )
    lease_seconds: float = _setting(
        10.0,
        "How long an operation stays with a worker that shows no sign of life.",
        _seconds(1.0),
    )
    drain_seconds: float = _setting(
        0.5,
        "How long calls are still taken after SIGTERM, while health checks already hear "
        "NOT_SERVING: what load balancers need to notice.",
        _seconds(0.0),
    )
    grace_seconds: float = _setting(
        20.0,
        "How long running calls may take to finish after that, while new ones are refused.",
        _seconds(0.0),
    )
    max_connection_age_seconds: float = _setting(
        300.0,
        "A connection is asked to be made anew after about so long, a tenth more or less, so that "
        "new replicas get traffic; its running calls may finish within `--grace-seconds`. "
        "0: never.",
        _seconds(0.0),
    )
    max_concurrent_rpcs: int = _setting(
        32, "Calls whose handlers run at the same moment; more are refused.", _whole_number(1)
    )
    max_active_operations_per_folder: int = _setting(
        1000,
        "Operations of one folder that may be under way at once; more are refused. The cloud has "
        "15, which is little for a test suite that runs in parallel. 0: any number.",
        _whole_number(0),
    )
    max_request_size: int = _setting(
        1024**2,
        "Largest request, bytes; the largest there is needs a quarter.",
        _whole_number(4096),
    )
    max_metadata_size: int = _setting(
        16 * 1024,
        "Largest metadata of a request, bytes, 32 for each entry included.",
        _whole_number(4096),
    )
    rpc_threads: int = _setting(
        512,
        "Calls that may be open at once, including those whose request has not arrived yet.",
        _whole_number(8),
    )
    request_body_seconds: float = _setting(
        10.0, "How long a caller may take to send a request after its headers.", _seconds(0.1)
    )
    metrics_listen: str = _setting(
        "",
        "Address at which Prometheus finds `/metrics`, over HTTP; port 0 picks one. Empty: "
        "nothing is counted, so that no port is taken which nobody asked for.",
        _listen_or_nothing,
    )
    tracing_endpoint: str = _setting(
        "",
        "URL of a collector's OTLP/HTTP receiver for traces, for instance "
        "`http://127.0.0.1:4318/v1/traces`. Empty: no traces.",
        _http_url_or_nothing,
    )
    tracing_ratio: float = _setting(
        0.01,
        "Part of the calls that are traced, 0 to 1. A caller that sends `traceparent` decides "
        "for itself.",
        _ratio,
    )
    log_format: str = _setting(
        "json",
        "How log lines are written: `json` is for programs, `text` for reading.",
        _one_of("json", "text"),
    )
    log_level: str = _setting(
        "info", "Least severe log line that is written.", _one_of("debug", "info", "warning")
    )

    @property
    def on_postgres(self) -> bool:
        """Whether metadata is kept in PostgreSQL, at `database_url`."""
        return self.database_url.startswith(("postgresql://", "postgres://"))

    @property
    def sqlite_path(self) -> Path:
        """The metadata file. Raises `SettingError` for a database that is not supported."""
        if not self.database_url:
            return self.data_dir / "metadata.sqlite"
        scheme, _, path = self.database_url.partition(":")
        if scheme != "sqlite" or not path:
            raise SettingError("database_url: must be sqlite:PATH or postgresql://USER@HOST/NAME")
        return Path(path.removeprefix("//"))

    @property
    def contents_path(self) -> Path:
        """The content folder. Raises `SettingError` for a store that is not one."""
        if not self.content_url:
            return self.data_dir / "contents"
        scheme, _, path = self.content_url.partition(":")
        if scheme != "file" or not path:
            raise SettingError("content_url: must be file:PATH or s3://BUCKET/PREFIX")
        return Path(path.removeprefix("//"))

    @property
    def content_bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix of contents in S3; None for a folder. Raises `SettingError`."""
        if not self.content_url.startswith("s3:"):
            return None
        # Nothing else fits in, so nobody comes to write credentials there.
        match = _S3_URL.fullmatch(self.content_url)
        if match is None:
            raise SettingError("content_url: must be s3://BUCKET or s3://BUCKET/PREFIX")
        return match["bucket"], (match["prefix"] or "").strip("/")

    @property
    def scratch_path(self) -> Path:
        """Where imports work: beside the contents, so that publishing is a rename.

        With contents in S3: in the data folder.
        """
        if self.content_bucket is not None:
            return self.data_dir / "scratch"
        return self.contents_path.with_name(self.contents_path.name + ".scratch")

    @property
    def secret_key_path(self) -> Path:
        return Path(self.secret_key_file) if self.secret_key_file else self.data_dir / "secret.key"

    def folders(self) -> Folders:
        """The cloud and its folders. Raises `SettingError`."""
        pairs = [each.partition("=") for each in self.folder]
        for folder_id, equals, name in pairs:
            if not (folder_id and equals and name):
                raise SettingError("folder: must be ID=NAME")
        return Folders(self.cloud_id, {folder_id: name for folder_id, _, name in pairs})

    @property
    def places(self) -> Places:
        """Zones and disk types."""
        return Places(self.zone, self.disk_type)

    @property
    def access_folder(self) -> Path:
        """Where accounts, groups and roles are."""
        return Path(self.access_dir) if self.access_dir else self.own_access_folder

    @property
    def own_access_folder(self) -> Path:
        """The access folder that is part of the installation, and of its backups."""
        return self.data_dir / "access"

    @property
    def reflects(self) -> bool:
        """Whether server reflection is offered."""
        return self.reflection == "on" or (self.reflection == "auto" and self.auth_mode == "none")

    @property
    def certificate_folder(self) -> Path:
        """Where development certificates are made."""
        return self.data_dir / "tls"

    def source_endpoints(self) -> tuple[SourceEndpoint, ...]:
        """The allow-list, parsed. Raises `SettingError`."""
        try:
            return tuple(parse_endpoint(url) for url in self.source_allow)
        except ValueError as error:
            raise SettingError(f"source_allow: {error}") from error

    def exposed(self) -> tuple[str, ...]:
        """Addresses of listeners that other machines may reach."""
        listeners = (self.listen, self.tls_listen)
        return tuple(each for each in listeners if each and not is_loopback(each))

    def check_exposure(self, *addresses: str) -> None:
        """Raise `SettingError` if strangers could reach one of the addresses, and do anything."""
        if self.auth_mode != "none" or self.expose_unauthenticated:
            return
        for address in addresses:
            if address and not is_loopback(address):
                raise SettingError(
                    f"{address} can be reached from other machines, and nobody is asked who they "
                    "are: choose another --auth-mode than none, listen on 127.0.0.1, or, if "
                    "whoever reaches it may do everything, say --expose-unauthenticated"
                )

    def to_environment(self) -> dict[str, str]:
        """The variables that give another process exactly these settings."""
        return {variable(name): _text(getattr(self, name)) for name in _BY_NAME}


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine only, by what is written."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_BY_NAME = {setting.name: setting for setting in fields(Settings)}


def _text(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return "DARKROOM_" + name.upper()


def _metavar(name: str) -> str:
    if name == "source_allow":
        return "URL"
    if isinstance(_BY_NAME[name].default, bool):
        return "BOOLEAN"
    return name.rpartition("_")[2].upper()


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str] = ()) -> None:
    """Add the flags of all settings, or of the named ones, to a command."""
    for name, setting in _BY_NAME.items():
        if names and name not in names:
            continue
        shown = _text(setting.default) or "empty"
        help_text = f"{setting.metadata['help']} [{variable(name)}, default: {shown}]"
        repeatable = setting.metadata.get("repeatable", False)
        parser.add_argument(
            flag(name),
            dest=name,
            action="append" if repeatable else "store",
            help=help_text.replace("%", "%%"),
            metavar=_metavar(name),
            # A switch needs no value; whoever writes scripts may give one.
            nargs="?" if isinstance(setting.default, bool) else None,
            const="true" if isinstance(setting.default, bool) else None,
        )


def load(
    arguments: argparse.Namespace | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from flags, variables and defaults. Raises `SettingError` naming the bad one."""
    values: dict[str, Any] = {}
    for name, setting in _BY_NAME.items():
        given = getattr(arguments, name, None)
        origin = flag(name)
        if name == "database_url" and given and _has_password(given):
            raise SettingError(
                f"{origin}: every user of this machine can read a password there; put it into "
                f"{variable(name)}, PGPASSWORD or a passfile"
            )
        if given is None and variable(name) in environment:
            origin, given = variable(name), environment[variable(name)]
        if given is None:
            continue
        try:
            if setting.metadata.get("repeatable"):
                values[name] = tuple(given.split() if isinstance(given, str) else given)
            else:
                values[name] = setting.metadata["parse"](given)
        except ValueError as error:
            raise SettingError(f"{origin}: {error}") from error
    settings = Settings(**values)
    settings.source_endpoints()
    settings.folders()
    if settings.xds and settings.listen.endswith(":0"):
        raise SettingError("xds: --listen needs a port of its own, which the control plane knows")
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingError("tls_certificate and tls_key: give both or neither")
    if settings.auth_mode == "mesh":
        needed = ("tls_listen", "tls_client_ca", "mesh_peer", "mesh_subject_header")
        missing = [name for name in needed if not getattr(settings, name)]
        if missing:
            raise SettingError(f"{missing[0]}: is needed for --auth-mode mesh")
    return settings


def _has_password(url: str) -> bool:
    return bool(re.search(r"://[^/@]*:[^/@]+@|[?&]password=", url))


def table() -> str:
    """The settings as a Markdown table, for the README."""
    lines = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for name, setting in _BY_NAME.items():
        default = _text(setting.default)
        shown = f"`{default}`" if default else "empty"
        lines.append(
            f"| `{flag(name)}` | `{variable(name)}` | {shown} | {setting.metadata['help']} |"
        )
    return "\n".join(lines)
