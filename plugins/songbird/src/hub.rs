//! What happened in Songbird's threads, on its way to one asyncio loop.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use tokio::runtime::Handle;

/// Packets gather this long before the loop is woken for them: one wake-up a tick, however many speak.
const BATCH: Duration = Duration::from_millis(20);
/// About ten seconds of sixty speakers; newer packets are dropped and counted.
const MOST_PACKETS: usize = 32_768;

/// The end of something Python waits for.
pub enum Outcome {
    Nothing,
    Number(f64),
    State(TrackReport),
    Pairs(Vec<(&'static str, String)>),
    Failed { kind: String, code: Option<u16>, text: String },
}

/// A track at one moment.
#[derive(Clone)]
pub struct TrackReport {
    pub uuid: String,
    pub playing: &'static str,
    pub error: Option<String>,
    pub volume: f32,
    pub position_s: f64,
    pub play_time_s: f64,
    pub loops: Option<u32>,
    pub ready: &'static str,
}

pub enum Event {
    Speaking {
        user: Option<u64>,
        ssrc: u32,
        flags: u8,
        delay: Option<u32>,
    },
    Left {
        user: u64,
    },
    Connected {
        again: bool,
        channel: u64,
        guild: u64,
        session: String,
        server: String,
        ssrc: u32,
    },
    Disconnected {
        kind: &'static str,
        reason: &'static str,
        code: Option<u16>,
        channel: u64,
        guild: u64,
        session: String,
    },
    Tracks {
        subscription: u64,
        tracks: Vec<TrackReport>,
    },
}

pub struct Received {
    pub ssrc: u32,
    pub user: Option<u64>,
    pub sequence: u16,
    pub timestamp: u32,
    pub packet: Bytes,
    pub from: usize,
    pub to: usize,
    /// End-to-end decrypted.
    pub encrypted: bool,
    pub pcm: Option<Vec<u8>>,
}

enum Message {
    Panic(String),
    Done(u64, Outcome),
    Event(u64, Event),
    Packet(u64, Received),
}

pub struct Inner {
    queue: Mutex<VecDeque<Message>>,
    packets: AtomicUsize,
    dropped: AtomicU64,
    awake: AtomicBool,
    armed: AtomicBool,
    /// Nothing once the loop has closed its end.
    tx: Mutex<Option<UnixStream>>,
}

impl Inner {
    fn put(&self, message: Message) {
        self.queue.lock().unwrap().push_back(message);
        self.wake();
    }

    fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            if let Some(tx) = &mut *self.tx.lock().unwrap() {
                // A full socket means that the loop has its call already.
                let _ = tx.write(&[1]);
            }
        }
    }

    pub fn done(&self, op: u64, outcome: Outcome) {
        self.put(Message::Done(op, outcome));
    }

    pub fn event(&self, driver: u64, event: Event) {
        self.put(Message::Event(driver, event));
    }

    /// Called inside the runtime.
    pub fn packet(self: &Arc<Self>, driver: u64, packet: Received) {
        if self.packets.fetch_add(1, Ordering::AcqRel) >= MOST_PACKETS {
            self.packets.fetch_sub(1, Ordering::AcqRel);
            self.dropped.fetch_add(1, Ordering::AcqRel);
            return;
        }
        self.queue.lock().unwrap().push_back(Message::Packet(driver, packet));
        if !self.armed.swap(true, Ordering::AcqRel) {
            let hub = self.clone();
            Handle::current().spawn(async move {
                tokio::time::sleep(BATCH).await;
                hub.wake();
            });
        }
    }
}

static HUBS: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

/// Tell every hub of a panic in Songbird's threads: a task of some driver is gone, and nobody else would notice.
fn watch_panics() {
    WATCH.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            // The mixers' threads have no name.
            let ours = std::thread::current().name().is_some_and(|name| name.starts_with("songbird"));
            if ours || place.contains("/songbird-") {
                let hubs: Vec<_> = HUBS.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
                for hub in hubs {
                    hub.put(Message::Panic(place.clone()));
                }
            }
        }));
    });
}

/// Promises that an operation is answered, also when its task is dropped unfinished.
pub struct Promise {
    hub: Arc<Inner>,
    op: u64,
    kept: bool,
}

impl Promise {
    pub fn new(hub: Arc<Inner>, op: u64) -> Self {
        Self { hub, op, kept: false }
    }

    pub fn keep(mut self, outcome: Outcome) {
        self.kept = true;
        self.hub.done(self.op, outcome);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.kept {
            self.hub.done(
                self.op,
                Outcome::Failed { kind: "closed".into(), code: None, text: "the driver was left meanwhile".into() },
            );
        }
    }
}

/// One Opus packet of one speaker, as Songbird received and decrypted it.
#[pyclass(frozen, module = "songbird", get_all)]
pub struct OpusPacket {
    user_id: Option<u64>,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    encrypted: bool,
    opus: Py<PyBytes>,
    audio: Option<Py<PyBytes>>,
}

#[pymethods]
impl OpusPacket {
    fn __repr__(&self, py: Python<'_>) -> String {
        format!(
            "OpusPacket(user_id={}, ssrc={}, sequence={}, timestamp={}, {} bytes)",
            self.user_id.map_or("None".into(), |user| user.to_string()),
            self.ssrc,
            self.sequence,
            self.timestamp,
            self.opus.bind(py).as_bytes().len(),
        )
    }
}

#[pyclass(frozen, module = "songbird._songbird")]
pub struct Hub {
    pub inner: Arc<Inner>,
    rx: Mutex<Option<UnixStream>>,
}

#[pymethods]
impl Hub {
    #[new]
    fn new() -> PyResult<Self> {
        let pair = || -> std::io::Result<(UnixStream, UnixStream)> {
            let (rx, tx) = UnixStream::pair()?;
            rx.set_nonblocking(true)?;
            tx.set_nonblocking(true)?;
            Ok((rx, tx))
        };
        let (rx, tx) = pair().map_err(|error| PyOSError::new_err(error.to_string()))?;
        let inner = Inner {
            queue: Mutex::default(),
            packets: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            awake: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            tx: Mutex::new(Some(tx)),
        };
        let inner = Arc::new(inner);
        watch_panics();
        let mut hubs = HUBS.lock().unwrap();
        hubs.retain(|hub| hub.strong_count() > 0);
        hubs.push(Arc::downgrade(&inner));
        Ok(Self { inner, rx: Mutex::new(Some(rx)) })
    }

    /// Raises ValueError once closed.
    fn fileno(&self) -> PyResult<i32> {
        let rx = self.rx.lock().unwrap();
        rx.as_ref().map(AsRawFd::as_raw_fd).ok_or_else(|| PyValueError::new_err("the hub is closed"))
    }

    /// Give up both sockets.
    fn close(&self) {
        self.rx.lock().unwrap().take();
        self.inner.tx.lock().unwrap().take();
    }

    /// Packets dropped because the loop did not take them.
    #[getter]
    fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Acquire)
    }

    /// Everything since the last call: (driver, kind, content), packets of one driver together.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut sink = [0; 64];
        if let Some(rx) = &mut *self.rx.lock().unwrap() {
            while matches!(rx.read(&mut sink), Ok(count) if count == sink.len()) {}
        }
        self.inner.awake.store(false, Ordering::Release);
        self.inner.armed.store(false, Ordering::Release);
        let queue = std::mem::take(&mut *self.inner.queue.lock().unwrap());
        let out = PyList::empty(py);
        let mut batches: HashMap<u64, Bound<'py, PyList>> = HashMap::new();
        let mut packets = 0;
        for message in queue {
            match message {
                Message::Packet(driver, received) => {
                    packets += 1;
                    let made = packet(py, received)?;
                    match batches.get(&driver) {
                        Some(batch) => batch.append(made)?,
                        None => {
                            let batch = PyList::new(py, [made])?;
                            out.append((driver, "packets", &batch))?;
                            batches.insert(driver, batch);
                        }
                    }
                }
                Message::Panic(place) => out.append((0, "panicked", place))?,
                Message::Event(driver, event) => {
                    batches.remove(&driver);
                    append_event(py, &out, driver, event)?;
                }
                Message::Done(op, outcome) => append_outcome(&out, op, outcome)?,
            }
        }
        self.inner.packets.fetch_sub(packets, Ordering::AcqRel);
        Ok(out)
    }
}

fn packet(py: Python<'_>, received: Received) -> PyResult<Py<OpusPacket>> {
    Py::new(
        py,
        OpusPacket {
            user_id: received.user,
            ssrc: received.ssrc,
            sequence: received.sequence,
            timestamp: received.timestamp,
            encrypted: received.encrypted,
            opus: PyBytes::new(py, &received.packet[received.from..received.to]).unbind(),
            audio: received.pcm.map(|pcm| PyBytes::new(py, &pcm).unbind()),
        },
    )
}

type ReportTuple = (String, &'static str, Option<String>, f32, f64, f64, Option<u32>, &'static str);

fn report(track: TrackReport) -> ReportTuple {
    (
        track.uuid,
        track.playing,
        track.error,
        track.volume,
        track.position_s,
        track.play_time_s,
        track.loops,
        track.ready,
    )
}

fn append_event<'py>(py: Python<'py>, out: &Bound<'py, PyList>, driver: u64, event: Event) -> PyResult<()> {
    match event {
        Event::Speaking { user, ssrc, flags, delay } => out.append((driver, "speaking", (user, ssrc, flags, delay))),
        Event::Left { user } => out.append((driver, "left", (user,))),
        Event::Connected { again, channel, guild, session, server, ssrc } => {
            let kind = if again { "reconnected" } else { "connected" };
            out.append((driver, kind, (channel, guild, session, server, ssrc)))
        }
        Event::Disconnected { kind, reason, code, channel, guild, session } => {
            out.append((driver, "disconnected", (kind, reason, code, channel, guild, session)))
        }
        Event::Tracks { subscription, tracks } => {
            let reports = PyList::new(py, tracks.into_iter().map(report))?;
            out.append((driver, "tracks", (subscription, reports)))
        }
    }
}

fn append_outcome(out: &Bound<'_, PyList>, op: u64, outcome: Outcome) -> PyResult<()> {
    match outcome {
        Outcome::Nothing => out.append((op, "done", None::<u8>)),
        Outcome::Number(number) => out.append((op, "done", number)),
        Outcome::State(track) => out.append((op, "done", report(track))),
        Outcome::Pairs(pairs) => out.append((op, "done", pairs)),
        Outcome::Failed { kind, code, text } => out.append((op, "failed", (kind, code, text))),
    }
}
