//! The native half of the Python module `songbird`: a thin layer over the Rust library of the same name.
//!
//! Rust never calls Python here. What happens in Songbird's threads is queued in a [`hub::Hub`], whose socket an
//! asyncio loop watches; Python takes the queue in its own thread. No worker of Songbird ever waits for the GIL.

mod config;
mod decode;
mod engine;
mod feed;
mod hub;
mod link;
mod listen;
mod source;
mod track;

use pyo3::prelude::*;

/// How many threads the module runs at present, and how many drivers and mixers share them.
#[pyfunction]
fn running(py: Python<'_>) -> (u64, u64) {
    py.detach(engine::running)
}

#[pymodule(gil_used = true)]
fn _songbird(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SONGBIRD_VERSION", "0.6.1")?;
    module.add_class::<hub::Hub>()?;
    module.add_class::<hub::OpusPacket>()?;
    module.add_class::<link::Link>()?;
    module.add_class::<listen::Subscription>()?;
    module.add_class::<source::Source>()?;
    module.add_class::<track::NativeHandle>()?;
    module.add_class::<decode::OpusDecoder>()?;
    module.add_function(wrap_pyfunction!(running, module)?)?;
    Ok(())
}
