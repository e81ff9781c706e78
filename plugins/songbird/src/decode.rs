//! Opus to samples, for packets that Songbird has decrypted.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Mutex;

use songbird::driver::opus::{Channels, Decoder};

const RATE: u32 = 48_000;
/// 120 ms in stereo, the longest packet there is.
const MOST_SAMPLES: usize = 5_760 * 2;

pub struct Speaker {
    decoder: Decoder,
    room: Vec<i16>,
}

impl Speaker {
    pub fn new(stereo: bool) -> Option<Self> {
        let channels = if stereo { Channels::Stereo } else { Channels::Mono };
        Some(Self { decoder: Decoder::new(RATE, channels).ok()?, room: vec![0; MOST_SAMPLES] })
    }

    /// Little-endian 16-bit samples, or nothing when the packet is no Opus. An empty packet conceals a loss.
    pub fn decode(&mut self, opus: &[u8], stereo: bool) -> Option<Vec<u8>> {
        let room = if opus.is_empty() { 960 * if stereo { 2 } else { 1 } } else { self.room.len() };
        let frames = self.decoder.decode(opus, &mut self.room[..room], false).ok()?;
        let samples = frames * if stereo { 2 } else { 1 };
        Some(self.room[..samples].iter().flat_map(|sample| sample.to_le_bytes()).collect())
    }
}

/// libopus' decoder for one stream: 48 kHz, 16 bits, little-endian, interleaved.
#[pyclass(frozen, module = "songbird")]
pub struct OpusDecoder {
    speaker: Mutex<Speaker>,
    stereo: bool,
}

#[pymethods]
impl OpusDecoder {
    #[new]
    #[pyo3(signature = (*, stereo = true))]
    fn new(stereo: bool) -> PyResult<Self> {
        let speaker = Speaker::new(stereo).ok_or_else(|| PyValueError::new_err("libopus refused a decoder"))?;
        Ok(Self { speaker: Mutex::new(speaker), stereo })
    }

    fn decode<'py>(&self, py: Python<'py>, opus: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let pcm = self.speaker.lock().unwrap().decode(opus, self.stereo);
        pcm.map(|pcm| PyBytes::new(py, &pcm)).ok_or_else(|| PyValueError::new_err("that is no Opus packet"))
    }
}
