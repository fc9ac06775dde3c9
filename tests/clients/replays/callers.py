"""The clients that are replayed: what they send and insist on, as their source code has it."""

import re

from clients.replays.steps import Call, Caller

# Versions inside user agents are examples: nothing depends on them.
GRPC_GO = "grpc-go/1.79.1"
TERRAFORM_AGENT = (
    "Terraform/1.11.4 (https://www.terraform.io) terraform-provider-yandex/0.222.0 " + GRPC_GO
)

GO_SDK_V1 = Caller(
    user_agent=f"yandex-cloud/go-sdk/v0.30.0 {GRPC_GO}",
    identifies=("idempotency-key", "x-client-request-id", "x-client-trace-id"),
)
"""With its optional interceptors for request ids and retries."""

GO_SDK_V1_PLAINTEXT = Caller(
    user_agent=GO_SDK_V1.user_agent, identifies=GO_SDK_V1.identifies, plaintext=True
)

GO_SDK_V2 = Caller(
    user_agent=f"yandex-cloud/go-sdk-v2/2.159.0 {GRPC_GO}",
    identifies=("idempotency-key", "x-request-id", "x-client-trace-id"),
    asks_when_done=True,
)
"""It puts an idempotency key on reads too. Some of its versions do not ask when done."""

TERRAFORM_FRAMEWORK = Caller(
    user_agent=TERRAFORM_AGENT,
    identifies=("idempotency-key", "x-request-id", "x-client-trace-id"),
    asks_when_done=True,
)
"""The half of the provider that is built on version 2 of the Go SDK."""

TERRAFORM_SDKV2 = Caller(
    user_agent=TERRAFORM_AGENT,
    identifies=("idempotency-key", "x-request-id", "x-client-trace-id"),
    change_timeout="300000m",
    insists={
        "yandex.cloud.compute.v1.Image": ("os", "created_at", "hardware_generation"),
        "yandex.cloud.compute.v1.Disk": (
            "disk_placement_policy",
            "created_at",
            "hardware_generation",
        ),
        "yandex.cloud.compute.v1.Snapshot": ("created_at", "hardware_generation"),
    },
)
"""The older half: images, disks and snapshots. It reads what it insists on without a check."""

YC = Caller(
    user_agent=f"yandex-cloud/go-sdk/v0.30.0 {GRPC_GO}",
    identifies=("idempotency-key", "x-client-request-id", "x-client-trace-id"),
)
"""Its source is not public: its documentation says what it does, the Go SDK how."""

PACKER = Caller(
    user_agent=f"Packer/1.1.3 (+https://www.packer.io/; go1.21.5; linux/amd64) {GRPC_GO}",
    identifies=("idempotency-key", "x-client-request-id", "x-client-trace-id"),
)

# --- how they begin -------------------------------------------------------------------------------

FIRST_PAGE = Call("endpoint.ApiEndpointService/List", {"page_size": 100})
"""Version 1 of the Go SDK, before its first call: one page of endpoints."""

WHOLE_LIST = Call("endpoint.ApiEndpointService/List")
"""Version 2, as soon as it is built."""

TOKEN = re.compile(r"t1\.[A-Z0-9a-z_-]+=?=?\.[A-Z0-9a-z_-]{86}=?=?")
"""Terraform and packer take what has another shape for an OAuth token and exchange it again."""

SIGN_IN = Call(
    "iam.v1.IamTokenService/Create",
    {"yandex_passport_oauth_token": "y0_replayed"},
    keeps={"token": "iam_token"},
    sees={"iam_token": TOKEN, "expires_at.seconds": re.compile(r"[1-9][0-9]{9}")},
)

SIGN_IN_WITH_KEY = Call(
    "iam.v1.IamTokenService/Create",
    {"jwt": "$jwt"},
    keeps={"token": "iam_token"},
    sees={"iam_token": TOKEN, "expires_at.seconds": re.compile(r"[1-9][0-9]{9}")},
)
