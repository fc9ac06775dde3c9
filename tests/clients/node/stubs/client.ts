// Stubs made from our .proto files: creates an image and reads its operation until it is done.
// usage: node out/client.js HOST:PORT SOURCE_URL; prints what it saw as JSON.

import { setTimeout } from "node:timers/promises";
import { credentials, Metadata, type ServiceError } from "@grpc/grpc-js";

import { ErrorInfo } from "./google/rpc/error_details.js";
import { Status } from "./google/rpc/status.js";
import { Image, image_StatusToJSON } from "./yandex/cloud/compute/v1/image.js";
import {
  CreateImageMetadata,
  CreateImageRequest,
  GetImageRequest,
  ImageServiceClient,
} from "./yandex/cloud/compute/v1/image_service.js";
import type { Operation } from "./yandex/cloud/operation/operation.js";
import { OperationServiceClient } from "./yandex/cloud/operation/operation_service.js";

const [address, uri] = process.argv.slice(2);

type Callback<Reply> = (error: ServiceError | null, reply: Reply) => void;

function answer<Reply>(call: (callback: Callback<Reply>) => unknown): Promise<Reply> {
  return new Promise((resolve, reject) => {
    call((error, reply) => (error === null ? resolve(reply) : reject(error)));
  });
}

const images = new ImageServiceClient(address!, credentials.createInsecure());
const operations = new OperationServiceClient(address!, credentials.createInsecure());

const request = CreateImageRequest.fromPartial({ folderId: "folder", name: "typescript", uri });
const metadata = new Metadata();
metadata.set("idempotency-key", "5f0c3f0e-5a0e-4c1e-9d7b-000000000001");
let operation: Operation = await answer((done) => images.create(request, metadata, done));
const { imageId } = CreateImageMetadata.decode(operation.metadata!.value);
const again: Operation = await answer((done) => images.create(request, metadata, done));

const deadline = Date.now() + 60_000;
while (!operation.done && Date.now() < deadline) {
  await setTimeout(50);
  operation = await answer((done) => operations.get({ operationId: operation.id }, done));
}
const image = Image.decode(operation.response!.value);

let reason = "";
try {
  await answer<Image>((done) => images.get(GetImageRequest.create({ imageId: "absent" }), done));
} catch (error) {
  const [packed] = (error as ServiceError).metadata.get("grpc-status-details-bin");
  const { details } = Status.decode(packed as Buffer);
  reason = details
    .filter((each) => each.typeUrl.endsWith("/google.rpc.ErrorInfo"))
    .map((each) => ErrorInfo.decode(each.value).reason)
    .join();
}

console.log(
  JSON.stringify({
    repeated: again.id === operation.id,
    description: operation.description,
    same: image.id === imageId,
    name: image.name,
    status: image_StatusToJSON(image.status),
    size: image.size.toString(),
    reason,
  }),
);
