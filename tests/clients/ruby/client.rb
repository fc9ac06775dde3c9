# Stubs made from our .proto files: creates an image and reads its operation until it is done.
# usage: ruby -I STUBS client.rb HOST:PORT SOURCE_URL; prints what it saw as JSON.

require "json"
require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require "yandex/cloud/compute/v1/image_service_services_pb"
require "yandex/cloud/operation/operation_service_services_pb"

Compute = Yandex::Cloud::Compute::V1
Operations = Yandex::Cloud::Operation

address, uri = ARGV
images = Compute::ImageService::Stub.new(address, :this_channel_is_insecure)
operations = Operations::OperationService::Stub.new(address, :this_channel_is_insecure)

request = Compute::CreateImageRequest.new(folder_id: "folder", name: "ruby", uri: uri)
key = { metadata: { "idempotency-key" => "5f0c3f0e-5a0e-4c1e-9d7b-000000000002" } }
operation = images.create(request, **key)
image_id = operation.metadata.unpack(Compute::CreateImageMetadata).image_id
again = images.create(request, **key)

deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 60
until operation.done || Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
  sleep 0.05
  operation = operations.get(Operations::GetOperationRequest.new(operation_id: operation.id))
end
image = operation.response.unpack(Compute::Image)

begin
  images.get(Compute::GetImageRequest.new(image_id: "absent"))
rescue GRPC::NotFound => error
  packed = error.metadata["grpc-status-details-bin"]
  details = Google::Rpc::Status.decode(packed).details.select { |each| each.is(Google::Rpc::ErrorInfo) }
  reason = details.map { |each| each.unpack(Google::Rpc::ErrorInfo).reason }.join
end

puts JSON.generate(
  repeated: again.id == operation.id,
  description: operation.description,
  same: image.id == image_id,
  name: image.name,
  status: image.status,
  size: image.size.to_s,
  reason: reason,
)
