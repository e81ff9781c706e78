//! Songbird's events, turned into messages for the hub.

use std::collections::hash_map::Entry;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pyo3::prelude::*;
use songbird::events::context_data::{ConnectData, DisconnectData, DisconnectKind, DisconnectReason, RtpData};
use songbird::packet::Packet;
use songbird::tracks::{LoopState, PlayMode, ReadyState, TrackState};
use songbird::{Event as SongbirdEvent, EventContext, EventHandler};

use crate::decode::Speaker;
use crate::hub::{Event, Inner, Received, TrackReport};
use crate::link::Alive;

/// What the transport's encryption adds behind a payload: tag and counter, in both modes.
const TRANSPORT: usize = 20;
/// The least that end-to-end encryption adds: tag, nonce, size and marker.
const END_TO_END: usize = 12;

/// Whether packets are wanted, and whether a listener for them stands. It stands to the end: Songbird 0.6.1 keeps a
/// listener of such events also when it asks to be cancelled.
#[derive(Default)]
struct Wanting {
    wanted: bool,
    listening: bool,
}

/// Who speaks on which stream. A member may have several clients in a call, each with a stream of its own.
#[derive(Default)]
struct Streams {
    owners: HashMap<u32, u64>,
    /// By member, the stream that was named last at the end.
    named: HashMap<u64, Vec<u32>>,
}

impl Streams {
    fn owner(&self, ssrc: u32) -> Option<u64> {
        self.owners.get(&ssrc).copied()
    }

    fn name(&mut self, ssrc: u32, user: u64) {
        if let Some(before) = self.owners.insert(ssrc, user) {
            self.take_from(before, |named| named.retain(|each| *each != ssrc));
        }
        self.named.entry(user).or_default().push(ssrc);
    }

    /// A client of the member left, and Discord does not say which: like Songbird, take it for the one named last.
    fn client_left(&mut self, user: u64) -> Option<u32> {
        let ssrc = self.take_from(user, Vec::pop)??;
        self.owners.remove(&ssrc);
        Some(ssrc)
    }

    fn take_from<T>(&mut self, user: u64, take: impl FnOnce(&mut Vec<u32>) -> T) -> Option<T> {
        let named = self.named.get_mut(&user)?;
        let taken = take(named);
        if named.is_empty() {
            self.named.remove(&user);
        }
        Some(taken)
    }
}

/// What a driver's listeners share.
pub struct Ear {
    pub hub: Arc<Inner>,
    pub driver: u64,
    packets: Mutex<Wanting>,
    pub decodes: AtomicBool,
    streams: Mutex<Streams>,
    decoders: Mutex<HashMap<u32, Speaker>>,
    watched: AtomicBool,
    ticks: AtomicU64,
}

impl Ear {
    pub fn new(hub: Arc<Inner>, driver: u64, decodes: bool) -> Self {
        Self {
            hub,
            driver,
            packets: Mutex::default(),
            decodes: AtomicBool::new(decodes),
            streams: Mutex::default(),
            decoders: Mutex::default(),
            watched: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
        }
    }

    /// True when a listener must be added.
    pub fn watch(&self) -> bool {
        !self.watched.swap(true, Ordering::AcqRel)
    }

    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Acquire)
    }

    /// True when a listener must be added.
    pub fn want_packets(&self, wanted: bool) -> bool {
        let mut packets = self.packets.lock().unwrap();
        packets.wanted = wanted;
        let missing = wanted && !packets.listening;
        packets.listening |= wanted;
        missing
    }

    fn wants_packets(&self) -> bool {
        self.packets.lock().unwrap().wanted
    }

    fn rtp(&self, data: &RtpData) {
        let view = data.rtp();
        let whole = view.payload().len();
        let header = data.packet.len() - whole;
        let (from, to) = (header + data.payload_offset, data.packet.len().saturating_sub(data.payload_end_pad));
        if to < from {
            return;
        }
        // Songbird passes on packets that it could not decrypt, and packets in clear, as if they were genuine. What it
        // decrypted end to end is shorter at its end by more than the transport's part and the padding.
        let padding = match view.get_padding() {
            0 => 0,
            _ => whole.checked_sub(TRANSPORT + 1).map_or(0, |last| usize::from(view.payload()[last])),
        };
        let encrypted = data.payload_end_pad >= TRANSPORT + padding + END_TO_END;
        let ssrc = view.get_ssrc();
        let opus = &data.packet[from..to];
        let pcm = if self.decodes.load(Ordering::Acquire) { self.decode(ssrc, opus) } else { None };
        let user = self.streams.lock().unwrap().owner(ssrc);
        let received = Received {
            ssrc,
            user,
            sequence: view.get_sequence().into(),
            timestamp: view.get_timestamp().into(),
            packet: data.packet.clone(),
            from,
            to,
            encrypted,
            pcm,
        };
        self.hub.packet(self.driver, received);
    }

    fn decode(&self, ssrc: u32, opus: &[u8]) -> Option<Vec<u8>> {
        let mut decoders = self.decoders.lock().unwrap();
        let speaker = match decoders.entry(ssrc) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Speaker::new(true)?),
        };
        speaker.decode(opus, true)
    }

    fn client_left(&self, user: u64) {
        if let Some(ssrc) = self.streams.lock().unwrap().client_left(user) {
            self.decoders.lock().unwrap().remove(&ssrc);
        }
    }
}

/// One listener of a driver. Its end tells that Songbird has given up the driver's events.
pub struct Listener {
    pub ear: Arc<Ear>,
    pub _alive: Alive,
}

#[async_trait]
impl EventHandler for Listener {
    async fn act(&self, context: &EventContext<'_>) -> Option<SongbirdEvent> {
        let ear = &self.ear;
        let event = match context {
            EventContext::RtpPacket(data) => {
                if ear.wants_packets() {
                    ear.rtp(data);
                }
                return None;
            }
            EventContext::VoiceTick(_) => {
                ear.ticks.fetch_add(1, Ordering::AcqRel);
                return None;
            }
            EventContext::SpeakingStateUpdate(speaking) => {
                let user = speaking.user_id.map(|user| user.0);
                if let Some(user) = user {
                    ear.streams.lock().unwrap().name(speaking.ssrc, user);
                }
                Event::Speaking { user, ssrc: speaking.ssrc, flags: speaking.speaking.bits(), delay: speaking.delay }
            }
            EventContext::ClientDisconnect(left) => {
                ear.client_left(left.user_id.0);
                Event::Left { user: left.user_id.0 }
            }
            EventContext::DriverConnect(data) => connected(data, false),
            EventContext::DriverReconnect(data) => connected(data, true),
            EventContext::DriverDisconnect(data) => disconnected(data),
            _ => return None,
        };
        ear.hub.event(ear.driver, event);
        None
    }
}

fn connected(data: &ConnectData<'_>, again: bool) -> Event {
    Event::Connected {
        again,
        channel: data.channel_id.0.get(),
        guild: data.guild_id.0.get(),
        session: data.session_id.to_owned(),
        server: data.server.to_owned(),
        ssrc: data.ssrc,
    }
}

fn disconnected(data: &DisconnectData<'_>) -> Event {
    let kind = match data.kind {
        DisconnectKind::Connect => "connect",
        DisconnectKind::Reconnect => "reconnect",
        DisconnectKind::Runtime => "runtime",
        _ => "unknown",
    };
    let (reason, code) = match &data.reason {
        Some(reason) => reason_of(reason),
        None => ("requested", None),
    };
    Event::Disconnected {
        kind,
        reason,
        code,
        channel: data.channel_id.0.get(),
        guild: data.guild_id.0.get(),
        session: data.session_id.to_owned(),
    }
}

pub fn reason_of(reason: &DisconnectReason) -> (&'static str, Option<u16>) {
    match reason {
        DisconnectReason::AttemptDiscarded => ("attempt_discarded", None),
        DisconnectReason::Internal => ("internal", None),
        DisconnectReason::Io => ("io", None),
        DisconnectReason::ProtocolViolation => ("protocol_violation", None),
        DisconnectReason::TimedOut => ("timed_out", None),
        DisconnectReason::Requested => ("requested", None),
        DisconnectReason::WsClosed(code) => ("ws_closed", code.map(|code| code as u16)),
        _ => ("unknown", None),
    }
}

pub fn track_report(state: &TrackState, uuid: String) -> TrackReport {
    let (playing, error) = match &state.playing {
        PlayMode::Play => ("play", None),
        PlayMode::Pause => ("pause", None),
        PlayMode::Stop => ("stop", None),
        PlayMode::End => ("end", None),
        PlayMode::Errored(error) => ("errored", Some(error.to_string())),
        _ => ("unknown", None),
    };
    TrackReport {
        uuid,
        playing,
        error,
        volume: state.volume,
        position_s: state.position.as_secs_f64(),
        play_time_s: state.play_time.as_secs_f64(),
        loops: match state.loops {
            LoopState::Infinite => None,
            LoopState::Finite(count) => Some(count.get()),
        },
        ready: match state.ready {
            ReadyState::Uninitialised => "uninitialised",
            ReadyState::Preparing => "preparing",
            ReadyState::Playable => "playable",
        },
    }
}

/// Somebody in Python who wants to know of tracks. Cancelled, it is silent, and gone at its next event or the end.
#[pyclass(frozen, module = "songbird._songbird")]
#[derive(Clone)]
pub struct Subscription {
    pub id: u64,
    pub cancelled: Arc<AtomicBool>,
}

#[pymethods]
impl Subscription {
    #[new]
    fn new(id: u64) -> Self {
        Self { id, cancelled: Arc::default() }
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

pub struct TrackListener {
    pub ear: Arc<Ear>,
    pub subscription: Subscription,
    pub _alive: Alive,
}

#[async_trait]
impl EventHandler for TrackListener {
    async fn act(&self, context: &EventContext<'_>) -> Option<SongbirdEvent> {
        if self.subscription.cancelled.load(Ordering::Acquire) {
            return Some(SongbirdEvent::Cancel);
        }
        if let EventContext::Track(tracks) = context {
            let tracks = tracks.iter().map(|(state, handle)| track_report(state, handle.uuid().to_string())).collect();
            self.ear.hub.event(self.ear.driver, Event::Tracks { subscription: self.subscription.id, tracks });
        }
        None
    }
}
