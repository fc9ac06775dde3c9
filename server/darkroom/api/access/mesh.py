"""Mode `mesh`: over mutual TLS, a sidecar or gateway that is on a list says who calls."""

import re
from collections.abc import Iterable

from darkroom.api.authentication import denied
from darkroom.api.calls import Call
from darkroom.domain.access import FEDERATED_USER, SERVICE_ACCOUNT, USER_ACCOUNT, Subject

FORWARDED_CERTIFICATE = "x-forwarded-client-cert"
"""Envoy's own header. Its last element is the one that the peer itself wrote (Envoy docs)."""

_TYPES = (USER_ACCOUNT, FEDERATED_USER, SERVICE_ACCOUNT)
_ID = re.compile(r"[\x21-\x7e]{1,100}")
"""As long as ids of subjects in access bindings may be."""
_MAX_GROUPS = 1000

_PAIR = re.compile(r'(?P<name>[A-Za-z]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^",;]*)(?P<end>[;,]|$)')


class MeshAuthentication:
    """Believes the headers of peers that prove to be one of those that are listed, no others'."""

    def __init__(self, peers: Iterable[str], subject_header: str, groups_header: str = "") -> None:
        """`peers` are SPIFFE ids or other URIs, or DNS names, as their certificates have them."""
        listed = [peer.encode() for peer in peers]
        self._uris = frozenset(peer for peer in listed if b"://" in peer)
        self._names = frozenset(listed) - self._uris
        self._subject_header = subject_header
        self._groups_header = groups_header

    def authenticate(self, call: Call) -> Subject:
        # What gRPC has verified against the authorities of the listener.
        proved = call.context.auth_context()
        # A URI among the DNS names is none that a certificate of SPIFFE has.
        if self._uris.isdisjoint(proved.get("peer_uri", ())) and self._names.isdisjoint(
            proved.get("peer_dns", ())
        ):
            raise denied(call, "no certificate of a listed peer")
        text = self._header(call, self._subject_header)
        if self._subject_header == FORWARDED_CERTIFICATE:
            subject_type, subject_id = SERVICE_ACCOUNT, _forwarded_uri(text)
        else:
            subject_type, _, subject_id = text.partition(":")
        if subject_type not in _TYPES or not _ID.fullmatch(subject_id):
            raise denied(call, f"no subject in {self._subject_header}")
        return Subject(subject_type, subject_id, self._groups(call))

    def _groups(self, call: Call) -> tuple[str, ...]:
        if not self._groups_header or self._groups_header not in call.metadata:
            return ()
        groups = [each.strip() for each in self._header(call, self._groups_header).split(",")]
        named = tuple(sorted({each for each in groups if each}))
        if len(named) > _MAX_GROUPS or not all(map(_ID.fullmatch, named)):
            raise denied(call, f"no list of groups in {self._groups_header}")
        return named

    def _header(self, call: Call, name: str) -> str:
        """The one value of a header; empty if there is none."""
        values = [value for key, value in call.context.invocation_metadata() if key == name]
        if len(values) > 1:
            # One of them may be the caller's own.
            raise denied(call, f"several values of {name}")
        return str(values[0]) if values else ""


def _forwarded_uri(text: str) -> str:
    """The one URI in the last element of Envoy's header; empty if there is not exactly one."""
    uris: list[str] = []
    position = 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            return ""
        position = pair.end()
        if pair["name"].upper() == "URI":
            value = pair["value"]
            uris.append(value[1:-1].replace('\\"', '"') if value.startswith('"') else value)
        if pair["end"] == ",":
            uris = []  # of an earlier element, which the caller may have written
    return uris[0] if len(uris) == 1 else ""
