"""Access files: what they say, and every fault named."""

from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from api.accounts import key_of
from darkroom.api.access.directory import DirectoryError, files, read

SHA = "ab" * 32
KEY = {"id": "key", "public_key": key_of("any")["public_key"]}


def written(folder: Path, document: object, name: str = "a.yaml") -> Path:
    (folder / name).write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return folder


def test_files_together_are_one_directory(tmp_path: Path) -> None:
    written(tmp_path, {"service_accounts": [{"id": "ci", "keys": [KEY]}], "users": []})
    written(tmp_path, {"users": [{"id": "alice", "tokens": [{"sha256": SHA}]}]}, "b.yaml")
    written(
        tmp_path,
        {
            "groups": [
                {"id": "one", "members": ["userAccount:alice", "serviceAccount:ci"]},
                {"id": "two", "members": ["userAccount:alice"]},
            ],
            "roles": [
                {"role": "viewer", "cloud": True, "subjects": ["group:one"]},
                {
                    "role": "editor",
                    "folders": ["f"],
                    "subjects": ["system:group:organization:o:users"],
                },
            ],
        },
        "c.yaml",
    )
    written(tmp_path, "", "empty.yaml")
    written(tmp_path, "faulty: yes", ".hidden.yaml")
    written(tmp_path, "no: yaml", "notes.txt")
    found = read(tmp_path)
    assert {each.id: each.type for each in found.accounts.values()} == {
        "ci": "serviceAccount",
        "alice": "userAccount",
    }
    assert found.keys["key"].account_id == "ci"
    assert found.tokens == {SHA: "alice"}
    assert found.groups_of[("userAccount", "alice")] == ("one", "two")
    first, second = found.grants
    assert first.cloud and first.subjects == (("group", "one"),)
    assert second.folder_ids == ("f",)
    assert second.subjects == (("system", "group:organization:o:users"),)
    assert found.credential_of("ci", "key") and found.credential_of("alice", SHA)
    assert not found.credential_of("alice", "key") and not found.credential_of("ci", "other")


def issuers(*changes: dict[str, object]) -> dict[str, object]:
    return {
        "issuers": [{"url": "https://a.example", "audiences": ["x"], **each} for each in changes]
    }


def test_no_folder_is_nobody(tmp_path: Path) -> None:
    assert files(tmp_path / "none") == []
    assert not read(tmp_path / "none").accounts


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("a: [", "a.yaml, line 2: is not YAML"),
        ("- a", "must hold a mapping"),
        ({"admins": []}, "admins: must be a list, one of service_accounts"),
        ({"users": {}}, "users: must be a list"),
        ({"users": ["alice"]}, "users[0]: must be a mapping"),
        ({"users": [{"name": "alice"}]}, "users[0]: id: is missing"),
        ({"users": [{"id": "al ice"}]}, "users[0]: id: must be an id"),
        ({"users": [{"id": "x" * 51}]}, "id: must be an id"),
        ({"users": [{"id": 5}]}, "id: must be text"),
        ({"users": [{"id": "alice", "keys": []}]}, "keys: unknown; known are id, name, tokens"),
        ({"users": [{"id": "alice", "tokens": [{"sha256": "y0_secret"}]}]}, "tokens: [0] sha256"),
        ({"users": [{"id": "alice"}, {"id": "alice"}]}, "users[1]: there is another entry alice"),
        (
            {"users": [{"id": "ci"}], "service_accounts": [{"id": "ci"}]},
            "there is another entry ci",
        ),
        (
            {"service_accounts": [{"id": "a", "keys": [KEY]}, {"id": "b", "keys": [KEY]}]},
            "service_accounts[1]: there is another entry key",
        ),
        (
            {"service_accounts": [{"id": "a", "keys": [{"id": "k", "public_key": "none"}]}]},
            "keys: [0] public_key: must be a public key in PEM",
        ),
        ({"groups": [{"id": "g", "members": ["group:h"]}]}, "members: [0] members are users"),
        ({"groups": [{"id": "g", "members": ["alice"]}]}, "type alice is not one of"),
        ({"roles": [{"role": "owner", "cloud": True, "subjects": []}]}, "role: is no role"),
        ({"roles": [{"role": "viewer", "subjects": []}]}, "must have either `cloud: true` or"),
        (
            {"roles": [{"role": "viewer", "cloud": True, "folders": ["f"], "subjects": []}]},
            "must have either `cloud: true` or",
        ),
        ({"roles": [{"role": "viewer", "cloud": False, "subjects": []}]}, "can only be true"),
        (
            {"roles": [{"role": "viewer", "cloud": True, "subjects": ["system:everyone"]}]},
            "a subject of type system is allUsers",
        ),
        ({"issuers": [{"url": "https://a.example"}]}, "issuers[0]: audiences: is missing"),
        (issuers({"audiences": []}), "audiences: must not be empty"),
        (issuers({"url": "http://a.example"}), "url: must be https://HOST/PATH"),
        (issuers({"url": "https://user@a.example"}), "url: must be https://HOST/PATH"),
        (issuers({"url": "https://[a"}), "url: must be a URL"),
        (issuers({"keys_url": "file:///keys"}), "keys_url: must be https://HOST/PATH"),
        (issuers({"algorithms": ["HS256"]}), "algorithms: [0] must be one of RS256"),
        (issuers({"algorithms": ["none"]}), "algorithms: [0] must be one of"),
        (issuers({}, {}), "issuers[1]: there is another entry https://a.example"),
        (issuers({}, {"url": "https://b.example"}), "must have a prefix"),
        (
            issuers({"prefix": "a:"}, {"url": "https://b.example", "prefix": "a:b:"}),
            "none that another issuer's begins with",
        ),
    ],
)
def test_a_fault_is_named(tmp_path: Path, document: object, fault: str) -> None:
    with pytest.raises(DirectoryError) as refused:
        read(written(tmp_path, document))
    assert fault in str(refused.value)
    assert "y0_secret" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_short_keys_and_other_kinds_are_refused(tmp_path: Path) -> None:
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256R1())):
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        keys = [{"id": "k", "public_key": public.decode()}]
        with pytest.raises(DirectoryError, match="must be an RSA key of at least 2048 bits"):
            read(written(tmp_path, {"service_accounts": [{"id": "a", "keys": keys}]}))


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, {"users": [{"id": ""}, {"nobody": "x"}]})
    written(tmp_path, {"roles": [{}]}, "b.yaml")
    with pytest.raises(DirectoryError) as refused:
        read(tmp_path)
    assert len(str(refused.value).splitlines()) == 4
