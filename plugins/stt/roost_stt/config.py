"""The settings of the speech-to-text plugin, table ``[stt]``."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from roost.consent import USUAL_DAYS
from roost.errors import SpeechError, UsageError
from roost.schema import guild_setting
from roost_stt.addresses import EXAMPLE, service_url
from roost_stt.languages import AUTO, language_code
from roost_stt.models import where_from, wrong_folder, wrong_name
from roost_stt.protocol.endpointing import Endpointing

Where = Literal["channel", "thread", "none"]
"""``none``: captions are only stored; what the bot has to say about them goes to the channel."""

ComputeType = Literal[
    "auto",
    "default",
    "float32",
    "float16",
    "bfloat16",
    "int16",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
]
"""CTranslate2's, but for ``auto``, which is ours."""

WHISPER = "faster-whisper"
"""The engine that `SttConfig.model` is for."""
ENGINES = (WHISPER, "openai", "scripted")
"""Those of this plugin."""
GPU_TYPES = frozenset({"float16", "int8_float16"})
MAX_HINTS = 50
MAX_HINT_CHARS = 40


class LeaseConfig(BaseModel):
    """How bots of one machine share a GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int = Field(1, ge=1, le=64, description="How many workers may use the GPU at once.")
    gpu: str = Field("0", pattern=r"^(\d+|(GPU|MIG)-[0-9A-Za-z/-]+)$", description="The GPU's UUID or index.")
    wait_s: float = Field(2.0, ge=0, le=10, description="Seconds to wait for a free slot, and for free memory.")
    memory_mib: int = Field(0, ge=0, le=1_048_576, description="GPU memory to wait for; 0: by the size of the model.")


class EndpointingConfig(BaseModel):
    """When an utterance ends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    silence_ms: int = Field(500, ge=100, le=5000, description="Silence in the audio that ends an utterance.")
    gap_ms: int = Field(400, ge=100, le=5000, description="Time without packets that ends one.")
    quiet_gap_ms: int = Field(200, ge=60, le=5000, description="The same after Discord's silence frames.")
    pre_roll_ms: int = Field(480, ge=0, le=2000, description="Audio kept from before the detected start.")
    max_s: float = Field(28.0, ge=2, le=29.5, description="The longest utterance.")

    def options(self) -> Endpointing:
        return Endpointing(**self.model_dump())


class CaptionsConfig(BaseModel):
    """What captions look like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["messages", "edited"] = guild_setting(
        "messages", description="A message for each utterance, or one that is edited until it is full."
    )
    partials: bool = guild_setting(
        False, description="With edited: show what is being said before it is finished; costs speed."
    )
    where: Where = guild_setting(
        "channel", description="In the channel, in a thread of it, or nowhere: then they are only stored."
    )


class RemoteConfig(BaseModel):
    """The transcription service that the engine ``openai`` asks. Its API key comes from ``ROOST_STT_API_KEY``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field("", description=f"Of its OpenAI-compatible API, such as {EXAMPLE}.")
    model: str = Field("whisper-1", min_length=1, description="The service's name for the model.")
    timeout_s: float = Field(10.0, ge=0.5, le=20, description="For one request; it is tried three times.")
    parallel: int = Field(4, ge=1, le=32, description="Requests at once.")
    api_key_file: Path | None = Field(None, description="File that holds the API key; the variable wins over it.")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            if value:
                service_url(value)
        except SpeechError as error:
            raise ValueError(str(error)) from None
        return value


class SttConfig(BaseModel):
    """What the plugin reads from the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = Field("faster-whisper", description="faster-whisper, openai, scripted, or one of another plugin.")
    model_path: Path | None = Field(None, description="Folder of a CTranslate2 Whisper model; wins over model.")
    model: str = Field(
        "tiny.en", description="In packages: tiny.en, base. Other Whisper sizes, or owner/name, are downloaded."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compute_type: ComputeType = Field(
        "auto", description="Of the model's arithmetic. auto: int8 on a CPU, float16 on a GPU."
    )
    threads: int = Field(2, ge=1, le=64, description="CPU threads for one inference.")
    beam: int = Field(1, ge=1, le=10, description="Beam size; 1 is fastest and, with tiny.en, also best.")
    short_window: bool = Field(True, description="Encode only as much time as was spoken, not always 30 s.")
    max_batch: int = Field(8, ge=1, le=64, description="Utterances decoded together.")
    idle_s: float = Field(60.0, ge=0, le=86_400, description="Seconds from the last transcription to the worker's end.")
    script: tuple[str, ...] = Field((), description="For the engine scripted: what it answers, in turn.")
    retention_days: int = guild_setting(
        USUAL_DAYS, ge=0, le=3650, description="Days to keep transcripts after their end; 0: store none."
    )
    language: str = guild_setting(AUTO, description="What is spoken: a code such as de, or auto. Members may differ.")
    hints: tuple[str, ...] = guild_setting((), max_length=MAX_HINTS, description="Names and words likely to be said.")
    word_timestamps: bool = guild_setting(False, description="Store when each word was said; costs speed.")
    silence_minutes: float = guild_setting(
        5.0, ge=0, le=1440, description="After so many minutes without a voice, say so once; 0: never."
    )
    max_hours: float = guild_setting(8.0, gt=0, le=24, description="The longest transcription.")
    captions: CaptionsConfig = CaptionsConfig()
    remote: RemoteConfig = Field(RemoteConfig(), validate_default=True)
    endpointing: EndpointingConfig = EndpointingConfig()
    lease: LeaseConfig = LeaseConfig()

    @property
    def model_source(self) -> str:
        """Which model this is and where it comes from, for ``roost doctor``; empty for an engine without one."""
        if self.engine == "openai":
            return f"{self.remote.model}, at {self.remote.url}"
        if self.engine != WHISPER:
            return ""
        return f"in the folder {self.model_path}" if self.model_path is not None else where_from(self.model)

    def unmet(self, offered_by: Callable[[str], Collection[str]]) -> Iterator[tuple[str, str]]:
        """See `roost.schema.unmet`."""
        if self.engine not in ENGINES and not offered_by("stt_engine"):
            yield "engine", f"no plugin provides the engine {self.engine} (there is: {', '.join(ENGINES)})"

    @field_validator("model_path")
    @classmethod
    def _is_a_model(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        value = value.expanduser().absolute()  # a plugin may change the folder of the process
        if info.data.get("engine") == WHISPER and (wrong := wrong_folder(value)) is not None:
            raise ValueError(wrong)
        return value

    @field_validator("model")
    @classmethod
    def _is_known(cls, value: str, info: ValidationInfo) -> str:
        """A mistyped model is found here, and not by the first member who wants captions."""
        asked = info.data.get("engine") == WHISPER and info.data.get("model_path") is None
        if asked and (wrong := wrong_name(value)) is not None:
            raise ValueError(wrong)
        return value

    @field_validator("compute_type")
    @classmethod
    def _runs_there(cls, value: ComputeType, info: ValidationInfo) -> ComputeType:
        if info.data.get("engine") == WHISPER and info.data.get("device") == "cpu" and value in GPU_TYPES:
            raise ValueError("no CPU computes in that; use auto, or int8")
        return value

    @field_validator("remote")
    @classmethod
    def _is_set(cls, value: RemoteConfig, info: ValidationInfo) -> RemoteConfig:
        if info.data.get("engine") == "openai" and not value.url:
            raise ValueError(f"the engine openai needs url, such as {EXAMPLE}")
        return value

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return language_code(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("hints")
    @classmethod
    def _short(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        hints = tuple(" ".join(each.split()) for each in value)
        if any(not 0 < len(each) <= MAX_HINT_CHARS for each in hints):
            raise ValueError(f"each has 1 to {MAX_HINT_CHARS} characters")
        return hints


def lease_folder() -> Path:
    """Where the slot files of the machine's GPUs lie; one folder for all bots of a user, or ``$ROOST_LEASE_DIR``."""
    given = os.environ.get("ROOST_LEASE_DIR")
    return Path(given) if given else Path(platformdirs.user_runtime_dir("roost")) / "leases"
