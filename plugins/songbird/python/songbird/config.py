"""How a driver connects, retries, decodes and mixes."""

from __future__ import annotations

import dataclasses
import enum


class CryptoMode(enum.Enum):
    """How voice packets are encrypted on the way to Discord, inside the end-to-end encryption or without it."""

    Aes256Gcm = "aead_aes256_gcm_rtpsize"
    XChaCha20Poly1305 = "aead_xchacha20_poly1305_rtpsize"


class DecodeMode(enum.Enum):
    """What is done with packets that arrive."""

    Pass = "pass"  # noqa: S105 - no password
    """Nothing: they are handed over encrypted."""
    Decrypt = "decrypt"
    """They are decrypted: `OpusPacket.opus`."""
    Decode = "decode"
    """They are decrypted and decoded: also `OpusPacket.audio`."""


class MixMode(enum.Enum):
    """Channels of the sound that is sent."""

    Mono = "mono"
    Stereo = "stereo"


@dataclasses.dataclass(frozen=True, slots=True)
class Strategy:
    """How long to wait before another try. Seconds."""

    every_s: float | None = None
    min_s: float = 0.25
    max_s: float = 10.0
    jitter: float = 0.1

    @staticmethod
    def every(duration: float) -> Strategy:
        """Always the same time."""
        return Strategy(every_s=duration)

    @staticmethod
    def backoff(min: float, max: float, jitter: float) -> Strategy:
        """Twice the time before, from `min` to `max`, moved by up to `jitter` (0 to 1)."""
        return Strategy(None, min, max, jitter)

    @staticmethod
    def backoff_default() -> Strategy:
        """From 0.25 to 10 s."""
        return Strategy()


@dataclasses.dataclass(slots=True)
class Config:
    """The settings of a driver. Those of the connection hold from the next `Driver.connect` on.

    Attributes:
        crypto_mode: Preferred; another one is taken where Discord does not offer it.
        decode_mode: What is done with received packets.
        mix_mode: Channels sent.
        preallocated_tracks: Tracks at once that need no new memory.
        driver_timeout: Seconds for one try to connect; None is without limit.
        retry_strategy: The wait between tries.
        retry_limit: Tries after the first, 1 to 255; None is without limit. Songbird knows no "never", and tries
            again also where Discord has said no.
        gateway_timeout: Seconds that `songbird.hikari.Voicebox` waits for Discord's answer to a join.
        use_softclip: Keep mixed sound from clipping.
    """

    crypto_mode: CryptoMode = CryptoMode.Aes256Gcm
    decode_mode: DecodeMode = DecodeMode.Decrypt
    mix_mode: MixMode = MixMode.Stereo
    preallocated_tracks: int = 1
    driver_timeout: float | None = 10.0
    retry_strategy: Strategy = dataclasses.field(default_factory=lambda: Strategy.every(0.25))
    retry_limit: int | None = 1
    gateway_timeout: float | None = 10.0
    use_softclip: bool = True

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise ValueError, TypeError for what cannot be."""
        for value, kind in (
            (self.crypto_mode, CryptoMode),
            (self.decode_mode, DecodeMode),
            (self.mix_mode, MixMode),
            (self.retry_strategy, Strategy),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is no {kind.__name__}")
        if self.retry_limit is not None and not 1 <= self.retry_limit <= 255:
            raise ValueError("retry_limit is 1 to 255, or None for no limit")
        if not 1 <= self.preallocated_tracks <= 255:
            raise ValueError("preallocated_tracks is 1 to 255")
        for name in ("driver_timeout", "gateway_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 < seconds < 86_400:
                raise ValueError(f"{name} is more than 0 seconds and less than a day, or None")

    def set_crypto_mode(self, crypto_mode: CryptoMode) -> None:
        self._set(crypto_mode=crypto_mode)

    def set_decode_mode(self, decode_mode: DecodeMode) -> None:
        self._set(decode_mode=decode_mode)

    def set_mix_mode(self, mix_mode: MixMode) -> None:
        self._set(mix_mode=mix_mode)

    def set_preallocated_tracks(self, preallocated_tracks: int) -> None:
        self._set(preallocated_tracks=preallocated_tracks)

    def set_driver_timeout(self, driver_timeout: float | None) -> None:
        self._set(driver_timeout=driver_timeout)

    def set_gateway_timeout(self, gateway_timeout: float | None) -> None:
        self._set(gateway_timeout=gateway_timeout)

    def set_driver_retry(self, strategy: Strategy, retry_limit: int | None) -> None:
        self._set(retry_strategy=strategy, retry_limit=retry_limit)

    def _set(self, **changes: object) -> None:
        dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        for name, value in changes.items():
            setattr(self, name, value)

    def longest_connect_s(self) -> float | None:
        """Seconds after which a connection has either been made or failed; None is without limit."""
        if self.driver_timeout is None or self.retry_limit is None:
            return None
        wait = self.retry_strategy.every_s
        if wait is None:
            wait = self.retry_strategy.max_s
        return (self.retry_limit + 1) * self.driver_timeout + self.retry_limit * wait + 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class NativeSettings:
    """`Config` as the native half reads it."""

    crypto_mode: str
    decode_mode: str
    mono: bool
    preallocated_tracks: int
    driver_timeout: float | None
    retry_every: float | None
    retry_min: float
    retry_max: float
    retry_jitter: float
    retry_limit: int | None
    use_softclip: bool

    @staticmethod
    def of(config: Config) -> NativeSettings:
        config.check()
        strategy = config.retry_strategy
        return NativeSettings(
            crypto_mode=config.crypto_mode.value,
            decode_mode=config.decode_mode.value,
            mono=config.mix_mode is MixMode.Mono,
            preallocated_tracks=config.preallocated_tracks,
            driver_timeout=config.driver_timeout,
            retry_every=strategy.every_s,
            retry_min=strategy.min_s,
            retry_max=strategy.max_s,
            retry_jitter=strategy.jitter,
            retry_limit=config.retry_limit,
            use_softclip=config.use_softclip,
        )
