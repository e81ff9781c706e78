//! Where a track's sound comes from.

use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::prelude::*;
use songbird::input::{AuxMetadata, File, HttpRequest, Input, YoutubeDl};

use crate::hub::{Hub, Outcome, Promise};

#[derive(Clone)]
enum Kind {
    Bytes(Vec<u8>),
    File(PathBuf),
    Http(String),
    YoutubeDl(String),
}

impl Kind {
    fn input(self) -> Result<Input, String> {
        let client = || reqwest::Client::builder().build().map_err(|error| error.to_string());
        Ok(match self {
            Kind::Bytes(bytes) => bytes.into(),
            Kind::File(path) => File::new(path).into(),
            Kind::Http(url) => HttpRequest::new(client()?, url).into(),
            Kind::YoutubeDl(url) => YoutubeDl::new(client()?, url).into(),
        })
    }
}

#[pyclass(frozen, module = "songbird._songbird")]
pub struct Source {
    kind: Mutex<Option<Kind>>,
}

impl Source {
    /// The input, once; nothing when it was taken before.
    pub fn take(&self) -> Option<Result<Input, String>> {
        self.kind.lock().unwrap().take().map(Kind::input)
    }

    fn of(kind: Kind) -> Self {
        Self { kind: Mutex::new(Some(kind)) }
    }
}

#[pymethods]
impl Source {
    #[staticmethod]
    fn bytes(data: Vec<u8>) -> Self {
        Self::of(Kind::Bytes(data))
    }

    #[staticmethod]
    fn file(path: PathBuf) -> Self {
        Self::of(Kind::File(path))
    }

    #[staticmethod]
    fn http(url: String) -> Self {
        Self::of(Kind::Http(url))
    }

    #[staticmethod]
    fn ytdl(url: String) -> Self {
        Self::of(Kind::YoutubeDl(url))
    }

    #[getter]
    fn consumed(&self) -> bool {
        self.kind.lock().unwrap().is_none()
    }

    /// What the origin says of itself, asked over the network where it must be.
    fn metadata(&self, link: &crate::link::Link, hub: &Hub, op: u64) -> PyResult<()> {
        let promise = Promise::new(hub.inner.clone(), op);
        let kind = self.kind.lock().unwrap().clone();
        let handle = link.handle()?;
        handle.spawn(async move {
            let asked = match kind.map(Kind::input) {
                None => Err("the source was played already".to_owned()),
                Some(Err(error)) => Err(error),
                Some(Ok(mut input)) => input.aux_metadata().await.map_err(|error| error.to_string()),
            };
            promise.keep(match asked {
                Ok(metadata) => Outcome::Pairs(pairs(metadata)),
                Err(text) => Outcome::Failed { kind: "source".into(), code: None, text },
            });
        });
        Ok(())
    }
}

fn pairs(metadata: AuxMetadata) -> Vec<(&'static str, String)> {
    let seconds = |span: Option<std::time::Duration>| span.map(|span| span.as_secs_f64().to_string());
    [
        ("track", metadata.track),
        ("artist", metadata.artist),
        ("album", metadata.album),
        ("date", metadata.date),
        ("channel", metadata.channel),
        ("channels", metadata.channels.map(|count| count.to_string())),
        ("start_time", seconds(metadata.start_time)),
        ("duration", seconds(metadata.duration)),
        ("sample_rate", metadata.sample_rate.map(|rate| rate.to_string())),
        ("source_url", metadata.source_url),
        ("title", metadata.title),
        ("thumbnail", metadata.thumbnail),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name, value)))
    .collect()
}
