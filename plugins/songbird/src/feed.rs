//! Opus frames from outside, sent as they are: an input without end that Songbird passes through unchanged.
//!
//! Songbird asks for a frame every 20 ms. An empty queue ends the track, Songbird marks the end with five frames of
//! silence and stops sending; the next frame begins a new track.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::{Arc, Mutex};

use songbird::constants::SAMPLE_RATE_RAW;
use songbird::input::codecs::{get_codec_registry, get_probe};
use songbird::input::core::codecs::{CodecParameters, DecoderOptions, CODEC_TYPE_OPUS};
use songbird::input::core::errors::{end_of_stream_error, seek_error, Error, Result, SeekErrorKind};
use songbird::input::core::formats::{Cue, FormatOptions, FormatReader, Packet, SeekMode, SeekTo, SeekedTo, Track};
use songbird::input::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use songbird::input::core::meta::{Metadata, MetadataLog, MetadataOptions};
use songbird::input::core::probe::Hint;
use songbird::input::{Input, LiveInput, Parsed};

const FRAME: u64 = 960;

#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    live: bool,
    taken: u64,
}

#[derive(Clone, Default)]
pub struct Feed {
    queue: Arc<Mutex<Queue>>,
}

pub enum Pushed {
    Full,
    Queued,
    /// The queue had run dry: play [`Feed::input`].
    Begin,
}

impl Feed {
    pub fn push(&self, frame: Vec<u8>, bound: usize) -> Pushed {
        let mut queue = self.queue.lock().unwrap();
        if queue.frames.len() >= bound {
            return Pushed::Full;
        }
        queue.frames.push_back(frame);
        if std::mem::replace(&mut queue.live, true) {
            Pushed::Queued
        } else {
            Pushed::Begin
        }
    }

    /// Frames waiting, frames Songbird took.
    pub fn stats(&self) -> (usize, u64) {
        let queue = self.queue.lock().unwrap();
        (queue.frames.len(), queue.taken)
    }

    /// Forget what waits.
    pub fn clear(&self) {
        self.queue.lock().unwrap().frames.clear();
    }

    pub fn input(&self) -> std::result::Result<Input, String> {
        let mut parameters = CodecParameters::new();
        parameters.for_codec(CODEC_TYPE_OPUS).with_sample_rate(SAMPLE_RATE_RAW as u32);
        let decoder =
            get_codec_registry().make(&parameters, &DecoderOptions::default()).map_err(|error| error.to_string())?;
        // The type that says "no metadata" can only be got from a probe: of an empty raw file, then.
        let mut empty = b"SbirdRaw".to_vec();
        empty.extend_from_slice(&(SAMPLE_RATE_RAW as u32).to_le_bytes());
        empty.extend_from_slice(&2u32.to_le_bytes());
        let stream = MediaSourceStream::new(Box::new(Cursor::new(empty)), MediaSourceStreamOptions::default());
        let probed = get_probe()
            .format(&Hint::new(), stream, &FormatOptions::default(), &MetadataOptions::default())
            .map_err(|error| error.to_string())?;
        let reader =
            Reader { feed: self.clone(), tracks: [Track::new(0, parameters)], metadata: MetadataLog::default(), at: 0 };
        let parsed =
            Parsed { format: Box::new(reader), decoder, track_id: 0, meta: probed.metadata, supports_backseek: false };
        Ok(Input::Live(LiveInput::Parsed(parsed), None))
    }
}

struct Reader {
    feed: Feed,
    tracks: [Track; 1],
    metadata: MetadataLog,
    at: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Stopped from outside: the next frame must begin anew.
        self.feed.queue.lock().unwrap().live = false;
    }
}

impl FormatReader for Reader {
    fn try_new(_: MediaSourceStream, _: &FormatOptions) -> Result<Self> {
        Err(Error::Unsupported("frames come from a queue, not from a stream"))
    }

    fn cues(&self) -> &[Cue] {
        &[]
    }

    fn metadata(&mut self) -> Metadata<'_> {
        self.metadata.metadata()
    }

    fn seek(&mut self, _: SeekMode, _: SeekTo) -> Result<SeekedTo> {
        seek_error(SeekErrorKind::Unseekable)
    }

    fn tracks(&self) -> &[Track] {
        &self.tracks
    }

    fn next_packet(&mut self) -> Result<Packet> {
        let mut queue = self.feed.queue.lock().unwrap();
        match queue.frames.pop_front() {
            Some(frame) => {
                queue.taken += 1;
                self.at += FRAME;
                Ok(Packet::new_from_slice(0, self.at, FRAME, &frame))
            }
            None => {
                queue.live = false;
                end_of_stream_error()
            }
        }
    }

    fn into_inner(self: Box<Self>) -> MediaSourceStream {
        MediaSourceStream::new(Box::new(Cursor::new(Vec::new())), MediaSourceStreamOptions::default())
    }
}
