//! One Songbird driver, from its first use to the moment nothing of it is left.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use songbird::driver::Bitrate;
use songbird::error::ConnectionError;
use songbird::events::context_data::DisconnectReason;
use songbird::id::{ChannelId, GuildId, UserId};
use songbird::tracks::{LoopState, Track};
use songbird::{ConnectionInfo, CoreEvent, Driver, Event as SongbirdEvent};
use tokio::runtime::Handle;

use crate::config::Settings;
use crate::engine::{engine, release, Engine};
use crate::feed::{Feed, Pushed};
use crate::hub::{Hub, Outcome, Promise};
use crate::listen::{reason_of, Ear, Listener, Subscription, TrackListener};
use crate::source::Source;
use crate::track::{event_of, NativeHandle};

/// How long the end waits for Songbird to give up the driver's events.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// How long the announcement of speech gets before the first frame of a run.
const ANNOUNCED: Duration = Duration::from_millis(20);
/// One second of sound.
const MOST_FRAMES: usize = 50;

/// Held by every listener: once all are gone, so are the driver's events.
pub type Alive = Arc<Sender<()>>;

struct Open {
    driver: Driver,
    engine: Arc<Engine>,
    alive: Alive,
    gone: Receiver<()>,
}

#[pyclass(frozen, module = "songbird._songbird")]
pub struct Link {
    open: Mutex<Option<Open>>,
    ear: Arc<Ear>,
    feed: Feed,
}

fn id(value: u64, name: &str) -> PyResult<NonZeroU64> {
    NonZeroU64::new(value).ok_or_else(|| PyValueError::new_err(format!("{name} is 0")))
}

fn closed() -> PyErr {
    PyRuntimeError::new_err("the driver was left")
}

impl Link {
    fn with<T>(&self, act: impl FnOnce(&mut Open) -> PyResult<T>) -> PyResult<T> {
        let mut guard: MutexGuard<'_, Option<Open>> = self.open.lock().unwrap();
        let open = guard.as_mut().ok_or_else(closed)?;
        let runtime = open.engine.handle();
        // Songbird starts tasks wherever it is called.
        let _inside = runtime.enter();
        act(open)
    }

    pub fn handle(&self) -> PyResult<Handle> {
        self.with(|open| Ok(open.engine.handle()))
    }

    /// In a thread of its own, for the end may take a moment.
    fn end(&self, promise: Option<Promise>) {
        let open = self.open.lock().unwrap().take();
        self.feed.clear();
        let Some(Open { driver, engine, alive, gone }) = open else {
            promise.into_iter().for_each(|promise| promise.keep(Outcome::Nothing));
            return;
        };
        // Should no thread be had, everything is dropped here and now, and the promise is answered as broken.
        let _ = std::thread::Builder::new().name("songbird-end".into()).spawn(move || {
            drop(driver);
            drop(alive);
            // Ends with an error once the last listener is gone, which is the good case.
            let _ = gone.recv_timeout(LAST_EVENTS);
            release(engine);
            promise.into_iter().for_each(|promise| promise.keep(Outcome::Nothing));
        });
    }

    fn listen(&self, open: &mut Open, event: CoreEvent) {
        let listener = Listener { ear: self.ear.clone(), _alive: open.alive.clone() };
        open.driver.add_global_event(SongbirdEvent::Core(event), listener);
    }
}

#[pymethods]
impl Link {
    #[new]
    fn new(hub: &Hub, id: u64, settings: Settings) -> PyResult<Self> {
        let engine = engine()?;
        let config = settings.build(&engine)?;
        let runtime = engine.handle();
        let driver = {
            let _inside = runtime.enter();
            Driver::new(config)
        };
        let (alive, gone) = channel();
        let link = Self {
            open: Mutex::new(Some(Open { driver, engine, alive: Arc::new(alive), gone })),
            ear: Arc::new(Ear::new(hub.inner.clone(), id, settings.decodes())),
            feed: Feed::default(),
        };
        link.with(|open| {
            for event in [
                CoreEvent::SpeakingStateUpdate,
                CoreEvent::ClientDisconnect,
                CoreEvent::DriverConnect,
                CoreEvent::DriverReconnect,
                CoreEvent::DriverDisconnect,
            ] {
                link.listen(open, event);
            }
            Ok(())
        })?;
        Ok(link)
    }

    #[allow(clippy::too_many_arguments)]
    fn connect(
        &self,
        op: u64,
        token: String,
        endpoint: String,
        session_id: String,
        guild_id: u64,
        channel_id: u64,
        user_id: u64,
    ) -> PyResult<()> {
        let info = ConnectionInfo {
            channel_id: ChannelId(id(channel_id, "channel_id")?),
            endpoint,
            guild_id: GuildId(id(guild_id, "guild_id")?),
            session_id,
            token,
            user_id: UserId(id(user_id, "user_id")?),
        };
        let promise = Promise::new(self.ear.hub.clone(), op);
        self.with(|open| {
            let connecting = open.driver.connect(info);
            open.engine.handle().spawn(async move {
                promise.keep(match connecting.await {
                    Ok(()) => Outcome::Nothing,
                    Err(error) => refused(&error),
                });
            });
            Ok(())
        })
    }

    /// End the driver; the operation is done when Songbird has given up its events, for the last one when the
    /// threads are gone. The hub is the caller's: the one that the driver was made with may be gone with its loop.
    fn close(&self, hub: &Hub, op: u64) {
        self.end(Some(Promise::new(hub.inner.clone(), op)));
    }

    fn want_packets(&self, wanted: bool) -> PyResult<()> {
        self.with(|open| {
            if self.ear.want_packets(wanted) {
                self.listen(open, CoreEvent::RtpPacket);
            }
            Ok(())
        })
    }

    /// How often the receiving half has been round, 50 times a second, since the first call.
    fn ticks(&self) -> PyResult<u64> {
        self.with(|open| {
            if self.ear.watch() {
                self.listen(open, CoreEvent::VoiceTick);
            }
            Ok(self.ear.ticks())
        })
    }

    fn mute(&self, muted: bool) -> PyResult<()> {
        self.with(|open| {
            open.driver.mute(muted);
            Ok(())
        })
    }

    /// Bits a second; 0 is libopus' choice, negative is its most.
    fn set_bitrate(&self, bits: i32) -> PyResult<()> {
        let bitrate = match bits {
            0 => Bitrate::Auto,
            bits if bits < 0 => Bitrate::Max,
            bits => Bitrate::Bits(bits),
        };
        self.with(|open| {
            open.driver.set_bitrate(bitrate);
            Ok(())
        })
    }

    fn set_config(&self, settings: Settings) -> PyResult<()> {
        self.ear.decodes.store(settings.decodes(), Ordering::Release);
        self.with(|open| {
            let config = settings.build(&open.engine)?;
            open.driver.set_config(config);
            Ok(())
        })
    }

    fn stop(&self) -> PyResult<()> {
        self.feed.clear();
        self.with(|open| {
            open.driver.stop();
            Ok(())
        })
    }

    /// Nothing when the source was played before.
    #[pyo3(signature = (source, *, only, paused, volume, loops))]
    fn play(
        &self,
        source: &Source,
        only: bool,
        paused: bool,
        volume: f32,
        loops: Option<u32>,
    ) -> PyResult<Option<NativeHandle>> {
        self.with(|open| {
            let Some(input) = source.take() else { return Ok(None) };
            let input = input.map_err(PyValueError::new_err)?;
            let loops = match loops {
                None => LoopState::Infinite,
                Some(count) => {
                    LoopState::Finite(count.try_into().map_err(|_| PyValueError::new_err("too many loops"))?)
                }
            };
            let mut track = Track::new(input).volume(volume).loops(loops);
            if paused {
                track = track.pause();
            }
            let inner = if only { open.driver.play_only(track) } else { open.driver.play(track) };
            Ok(Some(NativeHandle {
                inner,
                engine: Arc::downgrade(&open.engine),
                ear: self.ear.clone(),
                alive: Arc::downgrade(&open.alive),
            }))
        })
    }

    fn add_track_event(&self, name: &str, subscription: &Subscription) -> PyResult<()> {
        let event = event_of(name)?;
        self.with(|open| {
            let listener =
                TrackListener { ear: self.ear.clone(), subscription: subscription.clone(), _alive: open.alive.clone() };
            open.driver.add_global_event(event, listener);
            Ok(())
        })
    }

    /// Queue a 20 ms frame; false when a second of them waits already.
    fn send_opus(&self, frame: Vec<u8>) -> PyResult<bool> {
        self.with(|open| match self.feed.push(frame, MOST_FRAMES) {
            Pushed::Full => Ok(false),
            Pushed::Queued => Ok(true),
            Pushed::Begin => {
                // A track wakes Songbird, which announces speech (op 5) and sends at once; what overtakes the
                // announcement is lost. Paused, the track wakes it and is silent until Discord has been told.
                let track = Track::new(self.feed.input().map_err(PyRuntimeError::new_err)?).pause();
                let handle = open.driver.play(track);
                open.engine.handle().spawn(async move {
                    tokio::time::sleep(ANNOUNCED).await;
                    // Over by now: then there is nothing to begin.
                    let _ = handle.play();
                });
                Ok(true)
            }
        })
    }

    /// Frames waiting, frames taken by Songbird.
    fn opus_stats(&self) -> (usize, u64) {
        self.feed.stats()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end(None);
    }
}

fn refused(error: &ConnectionError) -> Outcome {
    let (kind, code) = reason_of(&DisconnectReason::from(error));
    Outcome::Failed { kind: kind.into(), code, text: error.to_string() }
}
