// The official Node SDK, unmodified, against a server; prints what it saw as JSON.
// usage: node client.mjs HOST:PORT CA_FILE SOURCE_URL

import { readFileSync } from "node:fs";

import { errors, Session, waitForOperation } from "@yandex-cloud/nodejs-sdk";
import { image, imageService } from "@yandex-cloud/nodejs-sdk/compute-v1";
import { iamTokenService } from "@yandex-cloud/nodejs-sdk/iam-v1";

const FOLDER = "node-folder";

const [endpoint, caFile, url] = process.argv.slice(2);
const ssl = { rootCerts: readFileSync(caFile) };

// The SDK itself exchanges tokens at the cloud's own address alone, so a user brings an IAM token.
async function iamToken() {
  const session = new Session({ iamToken: "none", ssl });
  const tokens = session.client(iamTokenService.IamTokenServiceClient, endpoint);
  const { CreateIamTokenRequest } = iamTokenService;
  const request = CreateIamTokenRequest.fromPartial({ yandexPassportOauthToken: "y0_any" });
  return (await tokens.create(request)).iamToken;
}

const session = new Session({ iamToken: await iamToken(), ssl, pollInterval: 100 });
const images = session.client(imageService.ImageServiceClient, endpoint);
const ended = (operation) => waitForOperation(operation, session, 60_000, endpoint);
const {
  CreateImageRequest,
  CreateImageMetadata,
  DeleteImageRequest,
  GetImageLatestByFamilyRequest,
  GetImageRequest,
  ListImagesRequest,
  UpdateImageRequest,
} = imageService;

const seen = {};

const begun = await images.create(
  CreateImageRequest.fromPartial({ folderId: FOLDER, name: "from-node", family: "node", uri: url }),
);
const created = await ended(begun);
const { imageId } = CreateImageMetadata.decode(created.metadata.value);
seen.createdBy = created.createdBy.split("-")[0];
seen.status = image.image_StatusToJSON(image.Image.decode(created.response.value).status);

const listed = await images.list(
  ListImagesRequest.fromPartial({ folderId: FOLDER, filter: 'name = "from-node"' }),
);
seen.listed = listed.images.map((each) => each.id === imageId);
const latest = await images.getLatestByFamily(
  GetImageLatestByFamilyRequest.fromPartial({ folderId: FOLDER, family: "node" }),
);
seen.latest = latest.id === imageId;

const updated = await ended(
  await images.update(
    UpdateImageRequest.fromPartial({
      imageId,
      updateMask: { paths: ["description"] },
      description: "changed",
    }),
  ),
);
const changed = image.Image.decode(updated.response.value);
seen.updated = [changed.description, changed.name];

// The SDK does not export the messages of access bindings: whole objects stand for them.
const accessBindings = [
  { roleId: "compute.images.user", subject: { id: "allAuthenticatedUsers", type: "system" } },
];
await ended(await images.setAccessBindings({ resourceId: imageId, accessBindings }));
const bound = await images.listAccessBindings({ resourceId: imageId, pageSize: 0, pageToken: "" });
seen.bindings = bound.accessBindings.map((each) => each.roleId);

await ended(await images.delete(DeleteImageRequest.fromPartial({ imageId })));
try {
  await images.get(GetImageRequest.fromPartial({ imageId }));
} catch (error) {
  const known = error instanceof errors.ApiError;
  seen.gone = [known, error.message.includes(`Image "${imageId}" not found`)];
  seen.requestId = Boolean(known && error.requestId);
  seen.traceId = Boolean(known && error.serverTraceId);
}
try {
  await images.create(CreateImageRequest.fromPartial({ folderId: FOLDER, name: "Bad Name" }));
} catch (error) {
  seen.refused = error.message.includes("INVALID_ARGUMENT");
}
try {
  const uri = url.replace(".qcow2", ".missing");
  await ended(await images.create(CreateImageRequest.fromPartial({ folderId: FOLDER, uri })));
} catch (operation) {
  seen.failed = operation.error?.code ?? String(operation);
}
console.log(JSON.stringify(seen));
