"""Owns every setting of the service, and is the only reader of the environment."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from training.model.registry import NAME
from training.model.rules import parse_rules


class Settings(BaseSettings):
    """Each field is the variable NOISEWELL_<FIELD>; command-line options win over it."""

    model_config = SettingsConfigDict(env_prefix="NOISEWELL_", frozen=True, extra="forbid")

    # Where it listens, and the key that every path but /health/* wants.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None

    # Host names it answers to besides those of loopback; their pages may change things too.
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()

    # What a connection may do: bytes and number of a request's headers, and seconds for the head
    # and for the body (one more for each 256 KB of it). A reader that takes nothing for
    # max_unread_sec of what waits for it is cut.
    max_connections: int = Field(default=4096, ge=1)
    max_header_bytes: int = Field(default=32_768, ge=1024)
    max_headers: int = Field(default=100, ge=8)
    max_header_sec: float = Field(default=10, ge=0.05)
    max_body_sec: float = Field(default=30, ge=0.05)
    max_unread_sec: float = Field(default=30, ge=0.05)

    # How long a service that was told to stop still takes requests, so that others learn of it.
    drain_sec: float = Field(default=1, ge=0, le=10)

    # One line of the log for each request but probes and scrapes.
    log_requests: bool = True

    # Where commands that speak to a running service find it.
    url: str = "http://127.0.0.1:8000"

    # Where models, datasets, jobs and runs are.
    data_dir: Path = Path("data")

    # Sampling. Threads are torch's on the CPU, 0 means half the cores; sizes count images.
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    serving_threads: int = Field(default=0, ge=0)
    max_batch_size: int = Field(default=64, ge=1, le=4096)
    max_queue_delay_ms: float = Field(default=0, ge=0, le=1000)
    max_queue_size: int = Field(default=4096, ge=1)
    max_queue_wait_ms: float = Field(default=2000, gt=0)
    max_batch_sec: float = Field(default=120, gt=0)
    max_images_per_request: int = Field(default=1024, ge=1, le=1024)
    max_pixels_per_request: int = Field(default=100_000_000, ge=1)
    max_images_per_stream: int = Field(default=100_000, ge=1, le=1_000_000)
    max_image_streams: int = Field(default=16, ge=1)
    image_cache_bytes: int = Field(default=64_000_000, ge=0)
    max_loaded_bytes: int = Field(default=2_000_000_000, ge=1)
    max_startup_bytes: int = Field(default=4_000_000, ge=0)

    # Images a minute that each key, and each address, may ask for; 0 is no limit.
    key_images_per_minute: int = Field(default=0, ge=0)
    address_images_per_minute: int = Field(default=0, ge=0)

    # Request bodies and datasets; max_dataset_bytes counts what an upload unpacks to, and the
    # ratio is of that to the bytes of the zip.
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    max_verify_bytes: int = Field(default=16_000_000, ge=1)
    max_verify_pixels: int = Field(default=4_194_304, ge=1)
    max_upload_bytes: int = Field(default=2_000_000_000, ge=1)
    max_dataset_files: int = Field(default=500_000, ge=1)
    max_dataset_bytes: int = Field(default=16_000_000_000, ge=1)
    max_dataset_zip_ratio: int = Field(default=100, ge=1)

    # Of one image of a dataset: bytes of its file, pixels, and what decoding it may take.
    max_image_bytes: int = Field(default=50_000_000, ge=1)
    max_image_pixels: int = Field(default=64_000_000, ge=16)
    max_image_sec: float = Field(default=5, ge=0.01)
    max_decoder_bytes: int = Field(default=1_000_000_000, ge=300_000_000)

    # Folders of the server that datasets may be imported from: name=/folder, with commas between.
    dataset_roots: Annotated[dict[str, Path], NoDecode] = Field(default_factory=dict)

    # Of all datasets together, those that are importing too; the bytes are what they take packed.
    max_datasets: int = Field(default=1000, ge=1)
    max_datasets_bytes: int = Field(default=200_000_000_000, ge=1)

    # Retraining. A job whose worker is silent for lease_sec is free for another one.
    start_worker: bool = True
    training_threads: int = Field(default=0, ge=0)
    max_queued_jobs: int = Field(default=100, ge=1)
    max_job_minutes: float = Field(default=24 * 60, gt=0)
    lease_sec: float = Field(default=8, gt=0)

    # Where jobs run: on each of the devices (cpu, cuda, mps, cuda:0,cuda:1, …; none: `device`), or
    # on each gpus_per_job of them together, so many jobs at once. 19 is the lowest priority.
    training_devices: Annotated[tuple[str, ...], NoDecode] = ()
    jobs_per_device: int = Field(default=1, ge=1, le=64)
    gpus_per_job: int = Field(default=1, ge=1, le=64)
    training_niceness: int = Field(default=10, ge=0, le=19)

    max_event_streams: int = Field(default=100, ge=1)

    # What a candidate must show to become champion: name=value, with commas or spaces between.
    promotion_rules: Annotated[tuple[str, ...], NoDecode] = ()

    # What is kept; beyond it the oldest goes. Of versions, 0 keeps all.
    max_run_folders: int = Field(default=200, ge=1)
    max_runs_bytes: int = Field(default=20_000_000_000, ge=0)
    max_evaluators_bytes: int = Field(default=1_000_000_000, ge=0)
    max_versions_per_model: int = Field(default=0, ge=0)

    # How often to look for what other processes changed.
    poll_sec: float = Field(default=1, gt=0)

    @field_validator("api_key", mode="after")
    @classmethod
    def _empty_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        """An empty variable is a forgotten key, and must not count as one."""
        return value if value is not None and value.get_secret_value().strip() else None

    @field_validator("promotion_rules", "training_devices", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("dataset_roots", mode="before")
    @classmethod
    def _name_roots(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): folder.strip() for name, _, folder in parts}

    @field_validator("dataset_roots", mode="after")
    @classmethod
    def _are_folders(cls, value: dict[str, Path]) -> dict[str, Path]:
        for name, folder in value.items():
            if not NAME.fullmatch(name) or not folder.is_absolute():
                raise ValueError(
                    f"{name!r}={str(folder)!r} is no root; expected name=/folder, the name of a-z,"
                    " 0-9, '.', '_', '-', the folder absolute"
                )
        return value

    @field_validator("promotion_rules", mode="after")
    @classmethod
    def _are_rules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_rules(value)
        return value

    @field_validator("training_devices", mode="after")
    @classmethod
    def _are_devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for device in value:
            if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", device):
                raise ValueError(f"{device!r} is no device; expected cpu, mps, cuda or cuda:0")
        return value

    @model_validator(mode="after")
    def _devices_fit(self) -> "Settings":
        for group in self.device_groups:
            kinds = {device.partition(":")[0] for device in group}
            if len(group) < self.gpus_per_job or len(kinds) > 1:
                raise ValueError(
                    f"gpus_per_job is {self.gpus_per_job}, which {', '.join(group)} of"
                    " training_devices do not make; expected a multiple of as many, of one kind,"
                    " such as cuda:0,cuda:1"
                )
        return self

    @property
    def device_groups(self) -> list[tuple[str, ...]]:
        """The devices of each job that runs at once."""
        devices, size = self.training_devices or (self.device,), self.gpus_per_job
        return [devices[i : i + size] for i in range(0, len(devices), size)]

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def uploads_dir(self) -> Path:
        return self.data_dir / "uploads"

    @property
    def evaluators_dir(self) -> Path:
        return self.data_dir / "evaluators"

    @property
    def pressure_path(self) -> Path:
        return self.data_dir / "pressure"

    @property
    def database_path(self) -> Path:
        return self.data_dir / "noisewell.sqlite3"
