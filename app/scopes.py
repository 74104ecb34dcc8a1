"""Owns who may do what: the scope of each route, in one table."""

SCOPES = ("generate", "read", "train", "admin")
ALL = frozenset(SCOPES)

PUBLIC = "public"

# `admin` opens everything; the others open what is theirs and nothing else.
DECLARED: dict[str, tuple[str, ...]] = {
    PUBLIC: (
        "GET /health/live",
        "GET /health/ready",
    ),
    "generate": (
        "GET /v1/models/{model}/images/{seed}.png",
        "POST /v1/images",
        "POST /v1/images/verify",
        "POST /v1/interpolations",
    ),
    "read": (
        "GET /",
        "GET /docs",
        "GET /openapi.json",
        "HEAD /openapi.json",
        "GET /static/{path:path}",
        "HEAD /static/{path:path}",
        "GET /metrics",
        "GET /v1/status",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /v1/models/{model}/versions",
        "GET /v1/models/{model}/versions/{version}",
        "GET /v1/models/{model}/versions/{version}/card",
        "GET /v1/models/{model}/versions/{version}/card.json",
        "GET /v1/models/{model}/versions/{version}/memorisation.png",
        "GET /v1/models/{model}/versions/{version}/samples.png",
        "GET /v1/datasets",
        "GET /v1/datasets/{dataset_id}",
        "GET /v1/datasets/{dataset_id}/report",
        "GET /v1/datasets/{dataset_id}/thumbnails.png",
        "GET /v1/datasets/{dataset_id}/verdicts",
        "GET /v1/training/jobs",
        "GET /v1/training/jobs/{job_id}",
        "GET /v1/training/jobs/{job_id}/checkpoints",
        "GET /v1/training/jobs/{job_id}/events",
        "GET /v1/training/jobs/{job_id}/log",
        "GET /v1/training/jobs/{job_id}/samples.png",
        "GET /v1/training/jobs/{job_id}/samples/{cur_nimg}.png",
    ),
    "train": (
        "POST /v1/datasets",
        "POST /v1/datasets/{dataset_id}/cancel",
        "POST /v1/training/jobs",
        "POST /v1/training/jobs/{job_id}/cancel",
        "POST /v1/training/jobs/{job_id}/pause",
        "POST /v1/training/jobs/{job_id}/resume",
        "POST /v1/training/jobs/{job_id}/retry",
    ),
    "admin": (
        "DELETE /v1/datasets/{dataset_id}",
        "DELETE /v1/models/{model}/versions/{version}",
        "PUT /v1/models/{model}/aliases/champion",
        "POST /v1/models/{model}/rollback",
    ),
}

SCOPE_OF = {door: scope for scope, doors in DECLARED.items() for door in doors}
