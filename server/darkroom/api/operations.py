"""yandex.cloud.operation.OperationService."""

from darkroom.api.calls import Call
from darkroom.api.convert import operation_to_message
from darkroom.domain import errors
from darkroom.domain.operation import Operation, State
from darkroom.operations.desk import Operations
from darkroom.storage.port import MetadataStore
from darkroom_pb.yandex.cloud.operation import operation_pb2, operation_service_pb2


class OperationServicer:
    """A method per RPC, under its name."""

    SERVICE = operation_service_pb2.DESCRIPTOR.services_by_name["OperationService"]

    def __init__(self, store: MetadataStore, operations: Operations) -> None:
        self._store = store
        self._operations = operations

    def Get(self, call: Call) -> operation_pb2.Operation:
        operation_id = call.operation_id = call.request.operation_id
        operation = self._store.get_operation(operation_id)
        if operation is None:
            raise errors.resource_not_found("Operation", operation_id)
        call.resource_id = operation.resource_id
        call.headers = progress_headers(operation)
        return operation_to_message(operation)

    def Cancel(self, call: Call) -> operation_pb2.Operation:
        call.operation_id = call.request.operation_id
        operation = self._operations.cancel(call.request.operation_id, call.caller)
        call.resource_id = operation.resource_id
        return operation_to_message(operation)


def progress_headers(operation: Operation) -> tuple[tuple[str, str], ...]:
    """How far a running operation is: the Operation message has no field for it.

    `x-operation-progress` is "done/total" in bytes of the phase; total is empty where unknown.
    """
    if operation.state is not State.RUNNING or not operation.phase:
        return ()
    total = operation.progress_total_bytes
    progress = f"{operation.progress_done_bytes}/{'' if total is None else total}"
    return (("x-operation-phase", operation.phase), ("x-operation-progress", progress))
