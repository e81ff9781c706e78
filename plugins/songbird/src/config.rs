//! Songbird's configuration from what Python passes.

use std::num::NonZeroU8;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use songbird::driver::retry::{ExponentialBackoff, Retry, Strategy};
use songbird::driver::{CryptoMode, DecodeMode, MixMode};
use songbird::Config;

use crate::engine::Engine;

/// Fields of the Python class `Config`, read by name.
#[derive(FromPyObject)]
pub struct Settings {
    crypto_mode: String,
    decode_mode: String,
    mono: bool,
    preallocated_tracks: u8,
    driver_timeout: Option<f64>,
    retry_every: Option<f64>,
    retry_min: f64,
    retry_max: f64,
    retry_jitter: f32,
    retry_limit: Option<u8>,
    use_softclip: bool,
}

impl Settings {
    /// Whether packets are to be decoded to samples.
    pub fn decodes(&self) -> bool {
        self.decode_mode == "decode"
    }

    pub fn build(&self, engine: &Engine) -> PyResult<Config> {
        let crypto = self
            .crypto_mode
            .parse::<CryptoMode>()
            .map_err(|_| PyValueError::new_err(format!("Discord knows no encryption mode {}", self.crypto_mode)))?;
        // Songbird's own decoding does not know where an end-to-end decrypted frame ends: see decode.rs.
        let decode = if self.decode_mode == "pass" { DecodeMode::Pass } else { DecodeMode::Decrypt };
        let strategy = match self.retry_every {
            Some(seconds) => Strategy::Every(span(seconds)?.into()),
            None => Strategy::Backoff(ExponentialBackoff {
                min: span(self.retry_min)?.into(),
                max: span(self.retry_max)?.into(),
                jitter: self.retry_jitter,
            }),
        };
        let retry = Retry { strategy, retry_limit: self.retry_limit.and_then(NonZeroU8::new) };
        Ok(Config::default()
            .crypto_mode(crypto)
            .decode_mode(decode)
            .mix_mode(if self.mono { MixMode::Mono } else { MixMode::Stereo })
            .preallocated_tracks(self.preallocated_tracks)
            .use_softclip(self.use_softclip)
            .driver_timeout(self.driver_timeout.map(span).transpose()?)
            .driver_retry(retry)
            .disposer(engine.disposer())
            .scheduler(engine.scheduler()))
    }
}

pub fn span(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| PyValueError::new_err(format!("not a span of seconds: {seconds}")))
}
