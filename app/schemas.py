"""Owns the HTTP contract: what every request may say and every answer holds."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_SEED = 2**53 - 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Strict(BaseModel):
    """A request body: no coercion ("3" is not 3), no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Answer(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)


class Problem(Answer):
    """Why something was refused (RFC 9457); `code` is what programs look at, `type` leads to what
    it means.

    request_id: as the log has it. field: what is wrong in the request, where it is one thing;
    errors: where it is several.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    field: str | None = None
    errors: list[dict[str, str]] | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None


# Training jobs

Override = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | float
    | Annotated[str, StringConstraints(pattern=r"^[ -~]{0,256}$")]
)
OverrideName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Promote = Literal["if_better", "never", "always"]


class Until(Strict):
    """A goal that ends training early."""

    fd: float = Field(gt=0, description="Fréchet distance at or below which training ends.")


class NewTrainingJob(Strict):
    """What to train, on what, for how long, and whether it may take over."""

    model: Name
    dataset: str = Field(min_length=1, max_length=80, description="Id, parts or parts@2.")
    preset: str | None = Field(None, max_length=64, description="Default: the first that fits.")
    minutes: float | None = Field(None, gt=0, description="Either this or `kimg`.")
    kimg: float | None = Field(None, gt=0, le=1e6, description="Thousands of images shown.")
    until: Until | None = None
    overrides: dict[OverrideName, Override] = Field(default={}, max_length=32)
    promote: Promote = "if_better"
    seed: Seed = 0
    base: str | None = Field(None, max_length=96, description="Go on from parts@2; else anew.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.minutes is None) == (self.kimg is None):
            raise ValueError("exactly one of minutes and kimg is needed")
        return self


class TrainingJob(Answer):
    """A job as it stands; `progress` and `result` are the trainer's own words.

    eta: when it will have trained, as far as can be seen now; to measure and register comes after.
    """

    id: str
    status: JobStatus
    model: str
    dataset: str
    dataset_name: str
    preset: str
    minutes: float | None
    kimg: float | None
    until: dict[str, float] | None
    overrides: dict[str, bool | int | float | str]
    promote: Promote
    seed: int
    base: str | None
    retry_of: str | None
    attempt: int
    cancel_requested: bool
    pause_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: dict[str, Any] | None
    eta: datetime | None
    result: dict[str, Any] | None
    error: str | None


class TrainingJobs(Answer):
    """A page of jobs, newest first; the next page comes after the last id."""

    data: list[TrainingJob]
    has_more: bool


class TrainingEvent(Answer):
    """Something that happened to a job; `seq` counts 1, 2, … without gaps."""

    seq: int
    type: str
    at: datetime
    data: dict[str, Any]


class TrainingEvents(Answer):
    """A page of events, oldest first; the next page comes after the last `seq`."""

    data: list[TrainingEvent]
    has_more: bool


CheckpointKind = Literal["state", "snapshot", "samples"]


class Checkpoint(Answer):
    """What a training left after `cur_nimg` images: a state to resume from, a generator, a grid.

    samples: where the grid of that moment is. metrics: what was measured then.
    """

    kind: CheckpointKind
    cur_nimg: int
    bytes: int
    created_at: datetime
    samples: str | None
    metrics: dict[str, Any] | None


class Checkpoints(Answer):
    """All that a run folder holds by now, by `cur_nimg`."""

    data: list[Checkpoint]


# Datasets

MIN_RESOLUTION, MAX_RESOLUTION = 4, 1024


class ServerFolder(Strict):
    """A folder or file of the server to import; the other fields are those of an upload's form."""

    root: str = Field(max_length=63, description="One of dataset_roots.")
    path: str = Field(default="", max_length=4096, description="Below the root; empty: all of it.")
    name: Name | None = None
    resolution: int | None = Field(default=None, ge=MIN_RESOLUTION, le=MAX_RESOLUTION)
    channels: Literal[1, 3] | None = None
    background: str | None = Field(default=None, max_length=100)
    classes: str | None = Field(default=None, max_length=1000)
    max_per_class: int | None = Field(default=None, ge=1, lt=1_000_000_000)
    licence: str | None = Field(default=None, max_length=1000)
    append_to: str | None = Field(default=None, min_length=1, max_length=80)


class RejectedFile(Answer):
    """A file of an upload that is not in the dataset, and why."""

    file: str
    reason: str


class ImportProgress(Answer):
    """How far an import is: files done of all, and what became of them.

    done counts every pass over the files; there are two if the size is to be chosen from them.
    """

    done: int
    total: int
    accepted: int
    rejected: int


class Dataset(Answer):
    """A dataset as it stands; what the import found is there once it is `ready`.

    progress: while it is importing and once that has begun; not in lists.
    converted: accepted images that had to be changed, and conversions how often each way.
    rejections: the first 1000.
    """

    id: str
    name: str
    version: int
    status: Literal["importing", "ready", "failed"]
    error: str | None
    created_at: datetime
    finished_at: datetime | None
    progress: ImportProgress | None = None
    hash: str | None = None
    resolution: int | None = None
    channels: int | None = None
    class_names: list[str] | None = None
    num_images: int | None = None
    num_heldout: int | None = None
    duplicates: int | None = None
    near_duplicates: int | None = None
    licence: str | None = None
    counts: dict[str, int] | None = None
    accepted: int | None = None
    converted: int | None = None
    conversions: dict[str, int] | None = None
    rejected: int | None = None
    rejections: list[RejectedFile] | None = None


class Datasets(Answer):
    """Every dataset, newest first."""

    data: list[Dataset]


class Verdicts(Answer):
    """A page of verdicts, in the order of the source; `next` is where the next one starts."""

    data: list[dict[str, Any]]
    next: int | None


# Images

Truncation = Annotated[float, Field(gt=0, le=1, description="ψ: latents are multiplied by it.")]
ClassText = Annotated[str, StringConstraints(max_length=255)]
MAX_MIXED, MAX_WEIGHT = 32, 1e6
ClassMix = Annotated[
    dict[ClassText, Annotated[float, Field(gt=0, le=MAX_WEIGHT)]],
    Field(min_length=1, max_length=MAX_MIXED, description="A mix: {name or index: weight}."),
]
ClassRef = Annotated[int, Field(ge=0)] | ClassText | ClassMix
ImageFormat = Literal["png", "webp", "jpeg"]
MAX_IMAGES = 1024  # in a list, or in an answer that has to be whole before it can be read
MAX_STREAMED_IMAGES = 1_000_000


class ImagesRequest(Strict):
    """n images of one model. Seeds: `seeds`, or `seed` for seed…seed+n-1, or drawn at random."""

    model: str = Field(max_length=96, description="mnist, mnist@2 or mnist@champion.")
    n: int | None = Field(
        None, ge=1, le=MAX_STREAMED_IMAGES, description="Default: as many as listed, or 1."
    )
    seed: Seed | None = None
    seeds: list[Seed] | None = Field(None, min_length=1, max_length=MAX_IMAGES)
    latents: list[list[float]] | None = Field(None, min_length=1, max_length=MAX_IMAGES)
    class_: ClassRef | None = Field(None, alias="class", description="For all of them.")
    classes: list[ClassRef] | None = Field(None, min_length=1, max_length=MAX_IMAGES)
    truncation: Truncation = 1.0
    format: ImageFormat = "png"
    response: Literal["image", "grid", "zip", "json", "ndjson", "npy"] = Field(
        "json", description="zip, ndjson and npy are sent as they are made, however many they hold."
    )
    include_latents: bool = Field(False, description="In json and ndjson, to ask with again.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        given = [x for x in (self.seed, self.seeds, self.latents) if x is not None]
        if len(given) > 1:
            raise ValueError("give one of seed, seeds and latents")
        if self.class_ is not None and self.classes is not None:
            raise ValueError("give either class or classes")
        for name, listed in (
            ("seeds", self.seeds),
            ("latents", self.latents),
            ("classes", self.classes),
        ):
            if listed is not None and len(listed) != self.count:
                raise ValueError(f"n is {self.count}, but {name} lists {len(listed)}")
        if self.seed is not None and self.seed + self.count - 1 > MAX_SEED:
            raise ValueError(f"seed + n - 1 is above {MAX_SEED}, the largest seed")
        if self.response == "image" and self.count != 1:
            raise ValueError(
                f"response 'image' is one image, n is {self.count}; use 'grid' or 'zip'"
            )
        if self.include_latents and self.response not in ("json", "ndjson"):
            raise ValueError(
                f"include_latents wants response 'json' or 'ndjson', not {self.response!r}"
            )
        return self

    @property
    def count(self) -> int:
        """How many images are asked for."""
        if self.n is not None:
            return self.n
        listed = self.seeds or self.latents or self.classes
        return len(listed) if listed else 1


class InterpolationRequest(Strict):
    """A walk through the latents of `seeds`, or through `latents`, as one moving image or a grid.

    Each key is a frame. With `loop` the last leads back to the first.
    """

    model: str = Field(max_length=96, description="mnist, mnist@2 or mnist@champion.")
    seeds: list[Seed] | None = Field(None, min_length=2, max_length=MAX_IMAGES)
    latents: list[list[float]] | None = Field(None, min_length=2, max_length=MAX_IMAGES)
    class_: ClassRef | None = Field(None, alias="class", description="For all of them.")
    classes: list[ClassRef] | None = Field(
        None, min_length=2, max_length=MAX_IMAGES, description="For each key; between, they mix."
    )
    frames: int = Field(60, ge=2, le=MAX_IMAGES)
    space: Literal["slerp", "lerp"] = Field(
        "slerp", description="slerp keeps the norm that latents have; lerp is the straight line."
    )
    loop: bool = False
    truncation: Truncation = 1.0
    format: Literal["webp", "apng", "gif", "grid"] = "webp"
    frame_ms: int = Field(50, ge=20, le=10_000, description="How long each frame is shown.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.seeds is None) == (self.latents is None):
            raise ValueError("give either seeds or latents")
        if self.class_ is not None and self.classes is not None:
            raise ValueError("give either class or classes")
        if self.classes is not None and len(self.classes) != self.num_keys:
            raise ValueError(f"there are {self.num_keys} keys, but {len(self.classes)} classes")
        if self.frames < self.num_keys:
            raise ValueError(f"frames is {self.frames}, fewer than the {self.num_keys} keys")
        return self

    @property
    def num_keys(self) -> int:
        """How many latents the walk passes through."""
        return len(self.seeds or self.latents or [])


class ImageData(Answer):
    """One image; `seed` is null where latents were given, `class` where there are no classes."""

    seed: int | None
    class_: str | dict[str, float] | None = Field(alias="class")
    latent: list[float] | None = Field(None, description="With `include_latents` alone.")
    b64_json: str


class Images(Answer):
    """What `response: json` answers."""

    model: str
    version: int
    digest: str
    data: list[ImageData]


# Verification


class Difference(Answer):
    """A pixel that is not as it was made: `expected` and `found` in [0, 255], one a channel."""

    x: int
    y: int
    expected: list[int]
    found: list[int]


class Verification(Answer):
    """Whether an image is what its metadata says; `detail` tells it in a sentence.

    other certificate: it differs, but was made on another kind of device or build (`certificate`,
    here `certificate_here`), where the same picture may have other bytes: small differences are to
    be expected. first_difference: the first row by row. largest_difference: of a channel, of 255.
    """

    match: bool
    verdict: Literal["match", "differs", "other certificate"]
    detail: str
    model: str
    version: int
    digest: str
    seed: int
    class_: str | dict[str, float] | None = Field(alias="class")
    truncation: float
    certificate: str
    certificate_here: str
    pixels: int
    differing_pixels: int
    largest_difference: int
    first_difference: Difference | None


# Models


class Refused(Answer):
    """A champion that could not be loaded, and why; null where aliases.json cannot be read."""

    version: int | None
    reason: str


class Model(Answer):
    """A line of versions; `serving` is what answers now, null if nothing could be loaded.

    refused: the champion, where another version has to serve for it. certificate: where the bytes
    of its images are the same; null while it is not in memory.
    """

    model: str
    versions: list[int]
    aliases: dict[str, int]
    serving: int | None
    refused: Refused | None
    class_names: list[str]
    network: dict[str, Any]
    certificate: dict[str, Any] | None


class Models(Answer):
    """Every model, by name."""

    data: list[Model]


class Version(Answer):
    """One version, as its manifest and its metrics tell."""

    model: str
    version: int
    digest: str
    created_at: str
    class_names: list[str]
    network: dict[str, Any]
    num_parameters: int
    lineage: dict[str, Any]
    metrics: dict[str, Any]


class Promotion(Strict):
    """Which version is to serve by default."""

    version: int = Field(ge=1)


# Health


class Ready(Answer):
    """An image that is asked for would come; `refused` lists champions that others serve for."""

    status: Literal["ready"]
    refused: list[str]


class InMemory(Answer):
    """A version in memory: what serves by default, and what was asked for by number."""

    model: str
    version: int
    certificate: str
    num_bytes: int


class WorkerStatus(Answer):
    """The worker that this service keeps; `off` where another command runs it."""

    state: Literal["off", "running", "restarting"]
    pid: int | None


class Status(Answer):
    """How the service is: what is served, on what, and how much is waiting.

    phase: `doing` says what keeps it from being ready. models: the version that serves by default.
    """

    version: str
    phase: Literal["starting", "ready", "draining", "dead"]
    doing: str
    uptime_sec: float
    device: str
    device_memory_bytes: dict[str, int]
    models: dict[str, int]
    loaded: list[InMemory]
    refused: dict[str, Refused]
    queued_images: int
    jobs: dict[str, int]
    datasets: dict[str, int]
    worker: WorkerStatus
    disk_free_bytes: int
