"""The only module that names concrete classes: settings in, working parts out."""

import importlib.metadata
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.config import SettingError, Settings
from darkroom.domain.errors import Failure
from darkroom.domain.operation import IMAGE_CREATE, KINDS
from darkroom.imaging.contents import ContentStore, LocalContents
from darkroom.imaging.conversion import ConversionLimits, Converter
from darkroom.imaging.fetch import Fetcher
from darkroom.imaging.fetch_limits import FetchLimits
from darkroom.imaging.inspection import InspectionLimits
from darkroom.imaging.sandbox import Sandbox
from darkroom.imaging.sources import SourcePolicy
from darkroom.operations.delayed import Delayed, DelayedEnding, EitherEnding, EitherRunner
from darkroom.operations.desk import Operations
from darkroom.operations.image_create import ImageCreateEnding, ImageImport
from darkroom.storage.observed import observed
from darkroom.storage.port import MetadataStore
from darkroom.storage.sealing import Keyring, announce
from darkroom.storage.sqlite import SqliteStore
from darkroom.telemetry.instruments import NO_INSTRUMENTS, Instruments
from darkroom.upkeep.manifest import Places
from darkroom.worker.attempt import LeaseSettings
from darkroom.worker.collector import Collector
from darkroom.worker.worker import Worker

if TYPE_CHECKING:
    from darkroom.telemetry.exposition import Exposition
    from darkroom.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

PRIVATE_FOLDER = 0o700


@dataclass(frozen=True)
class Deployment:
    """The parts that every process of an installation shares."""

    settings: Settings
    store: MetadataStore
    contents: ContentStore
    keyring: Keyring

    def close(self) -> None:
        self.store.close()


def _private_folder(path: Path) -> Path:
    path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    return path


def open_store(settings: Settings) -> MetadataStore:
    """The metadata store, its schema not yet looked at. Raises `SettingError`."""
    if settings.on_postgres:
        return _postgres_store(settings)
    _private_folder(settings.sqlite_path.parent)
    return SqliteStore(settings.sqlite_path, lease_seconds=settings.lease_seconds)


def open_existing_store(settings: Settings) -> MetadataStore:
    """The same for an installation that is there, its schema being ours.

    Raises `OSError`, `SchemaMismatch`.
    """
    if not (settings.on_postgres or settings.sqlite_path.exists()):
        # Opening would make an empty installation of every mistyped path.
        raise FileNotFoundError(f"there is no installation: {settings.sqlite_path} does not exist")
    store = open_store(settings)
    try:
        store.check_schema()
    except BaseException:
        store.close()
        raise
    return store


def _postgres_store(settings: Settings) -> MetadataStore:
    try:
        from darkroom.storage.postgres import PostgresStore
    except ImportError:
        raise SettingError(
            "database_url: PostgreSQL needs `pip install darkroom-images[postgres]`"
        ) from None
    try:
        return PostgresStore(
            settings.database_url,
            lease_seconds=settings.lease_seconds,
            max_connections=settings.database_connections,
        )
    except ValueError as error:
        raise SettingError(f"database_url: {error}") from None


def snapshot(settings: Settings, target: Path) -> None:
    """Copy the SQLite database as of one moment. Raises `OSError`."""
    store = SqliteStore(settings.sqlite_path)
    try:
        store.snapshot(target)
    finally:
        store.close()


def places(settings: Settings) -> Places:
    """Where the embedded defaults keep everything. Raises `SettingError` for other stores."""
    if settings.on_postgres or settings.content_bucket is not None:
        raise SettingError(
            "backup and restore are for SQLite and contents in a folder; docs/operations.md tells "
            "what to do with PostgreSQL and S3"
        )
    return Places(
        data=settings.data_dir,
        metadata=settings.sqlite_path,
        contents=settings.contents_path,
        secret_key=settings.secret_key_path,
        certificates=settings.certificate_folder,
        access=settings.own_access_folder,
    )


def restore_mark(settings: Settings) -> Path:
    """Stands in the data folder from the first step of a restore to its last."""
    return settings.data_dir / "restore.incomplete"


def open_contents(settings: Settings, metrics: "Metrics | None" = None) -> ContentStore:
    """The content store, not yet asked anything. Raises `OSError`, `SettingError`."""
    if settings.content_bucket is None:
        return LocalContents(_private_folder(settings.contents_path))
    try:
        # Imported here: an extra, and as much memory as the rest of a worker.
        from darkroom.imaging.s3_calls import Calls
        from darkroom.imaging.s3_contents import S3Contents
    except ImportError:
        raise SettingError("content_url: S3 needs `pip install darkroom-images[s3]`") from None
    bucket, prefix = settings.content_bucket
    try:
        observe = metrics.object_storage_call if metrics is not None else None
        return S3Contents(Calls(bucket, observe=observe), prefix)
    except ValueError as error:
        raise SettingError(f"content_url: {error}") from None


def instruments(settings: Settings, process: str) -> Instruments:
    """What a process (`serve` or `work`) watches itself with. Raises `SettingError`.

    Nothing is imported for what no setting asks for.
    """
    metrics, tracing = None, None
    if settings.metrics_listen:
        from darkroom.telemetry.metrics import Metrics

        metrics = Metrics()
    if settings.tracing_endpoint:
        try:
            from darkroom.telemetry.tracing import Tracing
        except ImportError:
            raise SettingError(
                "tracing_endpoint: traces need `pip install darkroom-images[tracing]`"
            ) from None
        endpoint, ratio = settings.tracing_endpoint, settings.tracing_ratio
        tracing = Tracing(endpoint, ratio, process, _version())
    return Instruments(metrics, tracing)


def _version() -> str:
    return importlib.metadata.version("darkroom-images")


def exposition(metrics: "Metrics", deployment: "Deployment | None" = None) -> "Exposition":
    """What shows figures, with those of the whole installation if its `deployment` is given."""
    from darkroom.storage.figures import StoreFigures
    from darkroom.telemetry.exposition import Exposition

    metrics.describe_process(_version())
    if deployment is not None:
        metrics.registry.register(StoreFigures(deployment.store))
    return Exposition(metrics)


def open_deployment(settings: Settings, watched: Instruments = NO_INSTRUMENTS) -> Deployment:
    """Open everything under the settings. Raises `OSError` or `ValueError` saying what is wrong."""
    if restore_mark(settings).exists():
        raise OSError(
            f"a restore to {settings.data_dir} did not come to its end: empty it and restore again"
        )
    _private_folder(settings.data_dir)
    contents = open_contents(settings, watched.metrics)
    try:
        contents.probe()
    except Failure as failure:
        # It may come back, and what needs no contents works without it.
        fields = {"reason": failure.reason, "problem": failure.message}
        log.warning("content storage out of reach", extra={"fields": fields})
    return Deployment(
        settings,
        observed(
            open_store(settings),
            [each.store_call for each in (watched.metrics, watched.tracing) if each is not None],
        ),
        contents,
        Keyring.load_or_create(settings.secret_key_path),
    )


def announce_secret_key(deployment: Deployment) -> None:
    """Before anything is sealed. Raises `ValueError` for a key file of another installation.

    Everything of SQLite's is on one machine: a key that is not there any more is lost, and what
    it sealed ends with advice. Elsewhere it is the key file of this process that is wrong.
    """
    replace = not deployment.settings.on_postgres
    announce(deployment.keyring, deployment.store, replace=replace)


def replace_secret_key(settings: Settings, store: MetadataStore) -> None:
    """The same whatever was said before. Raises `ValueError` for a file that is none."""
    announce(Keyring.load_or_create(settings.secret_key_path), store, replace=True)


def operations(deployment: Deployment, metrics: "Metrics | None" = None) -> Operations:
    """The front desk for the API process."""
    return Operations(
        deployment.store,
        {**dict.fromkeys(KINDS, DelayedEnding()), IMAGE_CREATE: EitherEnding(ImageCreateEnding())},
        deployment.keyring.seal,
        delay_seconds=deployment.settings.operation_delay,
        max_active_per_folder=deployment.settings.max_active_operations_per_folder,
        metrics=metrics,
    )


def worker(deployment: Deployment, owner: str, watched: Instruments = NO_INSTRUMENTS) -> Worker:
    """A worker of this installation under the name `owner`."""
    settings = deployment.settings
    scratch = _private_folder(settings.scratch_path)
    sandbox = Sandbox.detect(allow_unconfined=settings.allow_unconfined_conversion)
    image_import = ImageImport(
        open_sealed=deployment.keyring.open,
        fetcher=Fetcher(
            SourcePolicy(settings.source_endpoints()),
            FetchLimits(
                max_bytes=settings.max_source_size,
                max_bytes_per_second=settings.max_source_rate,
            ),
        ),
        inspection_limits=InspectionLimits(max_virtual_size_bytes=settings.max_virtual_size),
        converter=Converter(
            sandbox,
            ConversionLimits(max_stored_bytes=settings.max_stored_size),
            settings.compression,
        ),
        contents=deployment.contents,
        scratch=scratch,
        max_file_bytes=settings.max_source_size,
        metrics=watched.metrics,
    )
    return Worker(
        deployment.store,
        {**dict.fromkeys(KINDS, Delayed()), IMAGE_CREATE: EitherRunner(image_import)},
        Collector(
            deployment.store,
            deployment.contents,
            scratch,
            retention_seconds=settings.operation_retention,
            audit_retention_seconds=settings.audit_retention,
            metrics=watched.metrics,
        ),
        owner,
        key_ids=deployment.keyring.key_ids,
        lease=LeaseSettings(
            lease_seconds=settings.lease_seconds,
            heartbeat_seconds=settings.lease_seconds / 5,
        ),
        instruments=watched,
    )


def import_obstacle(settings: Settings) -> Failure | None:
    """What keeps this machine from importing images, tried rather than guessed; None if nothing."""
    sandbox = Sandbox.detect(allow_unconfined=settings.allow_unconfined_conversion)
    try:
        Converter(sandbox).ensure_available()
    except Failure as failure:
        return failure
    return None


def be_nice() -> None:
    """Lower this process's priority: imports must not slow the API down on the same machine."""
    os.nice(10)
