"""yandex.cloud.endpoint.ApiEndpointService: where each service is, which is always here."""

from darkroom.api.arrival import authority
from darkroom.api.calls import Call
from darkroom.domain import errors
from darkroom_pb.yandex.cloud.endpoint import api_endpoint_pb2, api_endpoint_service_pb2

ENDPOINT_IDS = (
    "compute",
    "endpoint",
    "iam",
    "operation",
    "resource-manager",
    "resourcemanager",
    "storage",
    "storage-api",
    "vpc",
)
"""What official clients look up before their first call (their code); one page holds them all."""


class ApiEndpointServicer:
    """Every id has the same address: the configured one, or the one that the caller used.

    The latter is right on loopback, behind a port mapping and behind a proxy alike, and with TLS
    it is a name that the certificate was just found to cover.
    """

    SERVICE = api_endpoint_service_pb2.DESCRIPTOR.services_by_name["ApiEndpointService"]

    def __init__(self, advertised: str) -> None:
        """`advertised` is HOST:PORT, or empty for the caller's own word."""
        self._advertised = advertised

    def _address(self, call: Call) -> str:
        return self._advertised or authority(call.context)

    def Get(self, call: Call) -> api_endpoint_pb2.ApiEndpoint:
        endpoint_id = call.resource_id = call.request.api_endpoint_id
        if endpoint_id not in ENDPOINT_IDS:
            raise errors.resource_not_found("API endpoint", endpoint_id)
        return api_endpoint_pb2.ApiEndpoint(id=endpoint_id, address=self._address(call))

    def List(self, call: Call) -> api_endpoint_service_pb2.ListApiEndpointsResponse:
        address = self._address(call)
        return api_endpoint_service_pb2.ListApiEndpointsResponse(
            endpoints=[
                api_endpoint_pb2.ApiEndpoint(id=each, address=address) for each in ENDPOINT_IDS
            ]
        )
