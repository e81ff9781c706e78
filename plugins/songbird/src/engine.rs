//! The threads that all drivers of the process share: made for the first driver, ended with the last.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::PyResult;
use songbird::driver::{DisposalThread, Scheduler, SchedulerConfig};
use tokio::runtime::{Builder, Handle, Runtime};

const WORKERS: usize = 2;
const SHUTDOWN: Duration = Duration::from_secs(2);

static CURRENT: Mutex<Weak<Engine>> = Mutex::new(Weak::new());

/// Two tokio workers, a thread that frees what Songbird gives up, and Songbird's mixer threads: one per sixteen
/// drivers that send at that moment.
pub struct Engine {
    runtime: Option<Runtime>,
    scheduler: Option<Scheduler>,
    disposer: Option<DisposalThread>,
}

/// The engine, made if no driver holds one.
pub fn engine() -> PyResult<Arc<Engine>> {
    let mut current = CURRENT.lock().unwrap();
    if let Some(engine) = current.upgrade() {
        return Ok(engine);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("songbird")
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .map_err(|error| PyOSError::new_err(format!("no threads for Songbird: {error}")))?;
    let scheduler = {
        let _inside = runtime.enter();
        Scheduler::new(SchedulerConfig::default())
    };
    let made =
        Arc::new(Engine { runtime: Some(runtime), scheduler: Some(scheduler), disposer: Some(DisposalThread::run()) });
    *current = Arc::downgrade(&made);
    Ok(made)
}

/// Mixers known and mixers sending.
pub fn running() -> (u64, u64) {
    let engine = CURRENT.lock().unwrap().upgrade();
    let counts = match &engine {
        Some(engine) => (engine.scheduler().total_tasks(), engine.scheduler().live_tasks()),
        None => (0, 0),
    };
    if let Some(engine) = engine {
        release(engine);
    }
    counts
}

/// Give up a share of the engine where waiting is no harm: whoever gives up the last share ends the threads.
pub fn release(engine: Arc<Engine>) {
    drop(engine);
}

impl Engine {
    pub fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("an engine in use has its runtime").handle().clone()
    }

    pub fn scheduler(&self) -> Scheduler {
        self.scheduler.as_ref().expect("an engine in use has its scheduler").clone()
    }

    pub fn disposer(&self) -> DisposalThread {
        self.disposer.as_ref().expect("an engine in use has its disposer").clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.scheduler.take();
        self.disposer.take();
        if let Some(runtime) = self.runtime.take() {
            if Handle::try_current().is_ok() {
                // Nothing may wait inside the runtime itself.
                runtime.shutdown_background();
            } else {
                runtime.shutdown_timeout(SHUTDOWN);
            }
        }
    }
}
