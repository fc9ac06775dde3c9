"""Settings: flags over variables over defaults, each bad value named."""

import argparse
from pathlib import Path

import pytest

from darkroom import config
from darkroom.cli import serve
from darkroom.config import SettingError, Settings, load


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_default_listens_on_loopback_only() -> None:
    settings = load(parse(), {})
    assert settings == Settings()
    assert settings.listen == "127.0.0.1:50051"
    assert settings.source_allow == ("https://storage.yandexcloud.net/",)


def test_a_flag_wins_over_a_variable() -> None:
    environment = {"DARKROOM_WORKERS": "3", "DARKROOM_DATA_DIR": "/from/variable"}
    settings = load(parse("--workers", "2"), environment)
    assert settings.workers == 2
    assert settings.data_dir == Path("/from/variable")


def test_a_repeatable_setting_replaces_its_default() -> None:
    first, second = "http://127.0.0.1:1/", "http://127.0.0.1:2/"
    flags = ("--source-allow", first, "--source-allow", second)
    assert load(parse(*flags), {}).source_allow == (first, second)
    variable = {"DARKROOM_SOURCE_ALLOW": f"{first} {second}"}
    assert load(parse(), variable).source_allow == (first, second)


def test_a_switch_needs_no_value() -> None:
    assert load(parse("--allow-unconfined-conversion"), {}).allow_unconfined_conversion
    off = parse("--allow-unconfined-conversion", "false")
    switched_on = {"DARKROOM_ALLOW_UNCONFINED_CONVERSION": "true"}
    assert not load(off, switched_on).allow_unconfined_conversion


def test_a_whole_number_is_asked_for_in_words() -> None:
    with pytest.raises(SettingError, match="--workers: must be a whole number, at least 0"):
        load(parse("--workers", "many"), {})


def test_settings_survive_the_way_through_the_environment() -> None:
    settings = load(
        parse("--source-allow", "http://127.0.0.1:1/", "--workers", "0", "--lease-seconds", "2.5"),
        {"DARKROOM_ALLOW_UNCONFINED_CONVERSION": "true", "DARKROOM_COMPRESSION": "zstd"},
    )
    assert load(parse(), settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", "-1"),
        ("workers", "many"),
        ("listen", "50051"),
        ("listen", "localhost:99999"),
        ("compression", "gzip"),
        ("lease_seconds", "nan"),
        ("operation_delay", "inf"),
        ("log_level", "loud"),
        ("source_allow", "storage.yandexcloud.net"),
        ("allow_unconfined_conversion", "perhaps"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name.replace("_", "[_-]")):
        load(parse(config.flag(name), value), {})
    with pytest.raises(SettingError, match=f"(?i){name}"):
        load(parse(), {config.variable(name): value})


@pytest.mark.parametrize("url", ["postgresql://host/db", "sqlite:", "metadata.sqlite"])
def test_an_unsupported_database_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="database_url"):
        _ = Settings(database_url=url).sqlite_path


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://images", "images", ""),
        ("s3://images/", "images", ""),
        ("s3://my.images-1/darkroom/prod_2", "my.images-1", "darkroom/prod_2"),
        ("s3://images/darkroom/", "images", "darkroom"),
    ],
)
def test_contents_in_a_bucket(url: str, bucket: str, prefix: str) -> None:
    settings = Settings(data_dir=Path("data"), content_url=url)
    assert settings.content_bucket == (bucket, prefix)
    assert settings.scratch_path == Path("data/scratch")


@pytest.mark.parametrize(
    "url",
    [
        *("s3:images", "s3:///images", "s3://", "s3://Images", "s3://im/..", "s3://images//a"),
        *("s3://key:hush@images/a", "s3://images/a?hush=1", "s3://images/../a", "s3://images/a b"),
    ],
)
def test_a_bucket_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="content_url: must be s3://BUCKET") as refused:
        _ = Settings(content_url=url).content_bucket
    assert "hush" not in str(refused.value)


def test_an_unsupported_content_store_is_refused() -> None:
    with pytest.raises(SettingError, match="content_url: must be file:PATH or s3://BUCKET/PREFIX"):
        _ = Settings(content_url="ftp://images").contents_path


def test_contents_in_a_folder_have_their_scratch_beside_them() -> None:
    settings = Settings(content_url="file:/srv/images")
    assert settings.content_bucket is None
    assert settings.scratch_path == Path("/srv/images.scratch")


def test_the_readme_table_is_the_real_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<!-- settings:begin -->")[2].partition("<!-- settings:end -->")[0]
    assert shown.strip() == config.table()


@pytest.mark.parametrize(
    ("listen", "tls_listen", "exposed"),
    [
        ("127.0.0.1:1", "[::1]:2", ()),
        ("localhost:1", "127.8.8.8:2", ()),
        ("0.0.0.0:1", "", ("0.0.0.0:1",)),
        ("127.0.0.1:1", "[::]:2", ("[::]:2",)),
        ("images.example:1", "10.0.0.1:2", ("images.example:1", "10.0.0.1:2")),
    ],
)
def test_listeners_that_others_may_reach_are_warned_of(
    listen: str, tls_listen: str, exposed: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    serve.warn_of_exposure(Settings(listen=listen, tls_listen=tls_listen))
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [vars(record)["fields"]["address"] for record in warned] == list(exposed)
