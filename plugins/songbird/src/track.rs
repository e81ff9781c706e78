//! The remote control of a track that was handed to a driver.

use std::future::Future;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use songbird::tracks::{ControlError, TrackHandle, TrackResult};
use songbird::{Event as SongbirdEvent, TrackEvent};

use crate::config::span;
use crate::engine::Engine;
use crate::hub::{Hub, Outcome, Promise};
use crate::listen::{track_report, Ear, Subscription, TrackListener};

#[pyclass(frozen, module = "songbird._songbird")]
pub struct NativeHandle {
    pub inner: TrackHandle,
    /// Weak, all of them: a handle that Python keeps must hold neither threads nor sockets.
    pub engine: Weak<Engine>,
    pub ear: Arc<Ear>,
    pub alive: Weak<Sender<()>>,
}

fn failed(error: &ControlError) -> Outcome {
    let kind = match error {
        ControlError::Finished | ControlError::Dropped => "finished",
        ControlError::Play(_) => "play",
        _ => "control",
    };
    Outcome::Failed { kind: kind.into(), code: None, text: error.to_string() }
}

fn told(result: TrackResult<()>) -> PyResult<()> {
    result.map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

pub fn event_of(name: &str) -> PyResult<SongbirdEvent> {
    Ok(SongbirdEvent::Track(match name {
        "play" => TrackEvent::Play,
        "pause" => TrackEvent::Pause,
        "end" => TrackEvent::End,
        "loop" => TrackEvent::Loop,
        "preparing" => TrackEvent::Preparing,
        "playable" => TrackEvent::Playable,
        "error" => TrackEvent::Error,
        _ => return Err(PyValueError::new_err(format!("no event of tracks: {name}"))),
    }))
}

#[pymethods]
impl NativeHandle {
    #[getter]
    fn uuid(&self) -> String {
        self.inner.uuid().to_string()
    }

    fn play(&self) -> PyResult<()> {
        told(self.inner.play())
    }

    fn pause(&self) -> PyResult<()> {
        told(self.inner.pause())
    }

    fn stop(&self) -> PyResult<()> {
        told(self.inner.stop())
    }

    fn set_volume(&self, volume: f32) -> PyResult<()> {
        told(self.inner.set_volume(volume))
    }

    /// `None` is without end.
    fn set_loops(&self, count: Option<u32>) -> PyResult<()> {
        told(match count {
            None => self.inner.enable_loop(),
            Some(0) => self.inner.disable_loop(),
            Some(count) => {
                let count = count.try_into().map_err(|_| PyValueError::new_err("too many loops"))?;
                self.inner.loop_for(count)
            }
        })
    }

    fn info(&self, hub: &Hub, op: u64) {
        let promise = Promise::new(hub.inner.clone(), op);
        let track = self.inner.clone();
        self.spawn(async move {
            promise.keep(match track.get_info().await {
                Ok(state) => Outcome::State(track_report(&state, track.uuid().to_string())),
                Err(error) => failed(&error),
            });
        });
    }

    fn seek(&self, hub: &Hub, op: u64, position_s: f64) -> PyResult<()> {
        let position = span(position_s)?;
        let promise = Promise::new(hub.inner.clone(), op);
        let track = self.inner.clone();
        self.spawn(async move {
            promise.keep(match track.seek_async(position).await {
                Ok(reached) => Outcome::Number(reached.as_secs_f64()),
                Err(error) => failed(&error),
            });
        });
        Ok(())
    }

    fn make_playable(&self, hub: &Hub, op: u64) {
        let promise = Promise::new(hub.inner.clone(), op);
        let track = self.inner.clone();
        self.spawn(async move {
            promise.keep(match track.make_playable_async().await {
                Ok(()) => Outcome::Nothing,
                Err(error) => failed(&error),
            });
        });
    }

    fn add_event(&self, name: &str, subscription: &Subscription) -> PyResult<()> {
        self.listen(event_of(name)?, subscription)
    }

    fn add_timer(
        &self,
        delay_s: f64,
        phase_s: Option<f64>,
        periodic: bool,
        subscription: &Subscription,
    ) -> PyResult<()> {
        let delay = span(delay_s)?;
        let event = if periodic {
            SongbirdEvent::Periodic(delay, phase_s.map(span).transpose()?)
        } else {
            SongbirdEvent::Delayed(delay)
        };
        self.listen(event, subscription)
    }
}

impl NativeHandle {
    /// Without an engine the task is dropped, and its promise with it.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(engine) = self.engine.upgrade() {
            engine.handle().spawn(task);
        }
    }

    fn listen(&self, event: SongbirdEvent, subscription: &Subscription) -> PyResult<()> {
        let Some(alive) = self.alive.upgrade() else { return Err(PyRuntimeError::new_err("the driver was left")) };
        let listener = TrackListener { ear: self.ear.clone(), subscription: subscription.clone(), _alive: alive };
        told(self.inner.add_event(event, listener))
    }
}
