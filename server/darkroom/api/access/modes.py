"""The modes of authentication, each put together from its parts."""

from dataclasses import dataclass
from pathlib import Path

from darkroom.api.access import directory
from darkroom.api.access.iam import IamAccess
from darkroom.api.access.mesh import MeshAuthentication
from darkroom.api.access.oidc import OidcAccess
from darkroom.api.access.revocations import Revocations
from darkroom.api.access.rights import RoleAuthorizer
from darkroom.api.authentication import (
    Authenticator,
    Authorizer,
    EverythingAllowed,
    NoAuthentication,
)
from darkroom.api.following import Followed, stamp
from darkroom.api.iam_tokens import Exchange, NoExchange, OpenExchange
from darkroom.api.tokens import Tokens
from darkroom.config import Settings
from darkroom.storage.port import MetadataStore
from darkroom.storage.sealing import Keyring


@dataclass(frozen=True)
class Access:
    """What a mode decides: who callers are, what they may do, what they get tokens for."""

    authenticator: Authenticator
    authorizer: Authorizer
    exchange: Exchange


def followed_keys(settings: Settings) -> Followed[Keyring]:
    """The keys that tokens are signed with: the file of secret keys, whenever it changes.

    Raises `OSError` or `ValueError`.
    """
    path = settings.secret_key_path
    Keyring.load_or_create(path)
    return Followed("secret keys", lambda: stamp(path), lambda: Keyring.load_or_create(path))


def issuer(settings: Settings, keys: Followed[Keyring] | None = None) -> Tokens:
    """Who issues tokens and knows them again. Raises `OSError` or `ValueError`."""
    followed = keys if keys is not None else followed_keys(settings)
    return Tokens(
        lambda text: followed.current().sign(text),
        lambda text, signature: followed.current().verify(text, signature),
        lifetime_seconds=settings.token_lifetime,
    )


def access(settings: Settings, store: MetadataStore) -> Access:
    """The parts of the mode that is set. Raises `OSError` or `ValueError` saying what is wrong."""
    keys = followed_keys(settings)
    tokens = issuer(settings, keys)
    if settings.auth_mode == "none":
        return Access(NoAuthentication(tokens.subject), EverythingAllowed(), OpenExchange(tokens))
    folder = settings.access_folder
    rules = Followed(
        "access files", lambda: directory.stamp_of(folder), lambda: _directory(settings, folder)
    )
    authorizer = RoleAuthorizer(
        store,
        rules,
        cloud_id=settings.cloud_id,
        organization_id=settings.organization_id,
    )
    if settings.auth_mode == "mesh":
        mesh = MeshAuthentication(
            settings.mesh_peer, settings.mesh_subject_header, settings.mesh_groups_header
        )
        return Access(mesh, authorizer, NoExchange())
    if settings.auth_mode == "oidc":
        oidc = OidcAccess(rules, Revocations(store))
        return Access(oidc, authorizer, oidc)
    iam = IamAccess(tokens, rules, Revocations(store), keys.current)
    return Access(iam, authorizer, iam)


def _directory(settings: Settings, folder: Path) -> directory.Directory:
    """The access files, as the mode needs them. Raises `OSError` or `DirectoryError`."""
    found = directory.read(folder)
    for url in found.issuers:
        if url.startswith("http:") and not settings.oidc_loopback_http:
            raise directory.DirectoryError(
                f"issuer {url}: needs https, or, for tests, --oidc-loopback-http"
            )
    if settings.auth_mode == "oidc" and not found.issuers:
        raise directory.DirectoryError("the access files have no issuers")
    return found
