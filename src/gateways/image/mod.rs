//! The provider kind `image`: real work on real pictures inside this replica.
//!
//! Pixels are decoded and computed on blocking threads only, as many at once as the machine has
//! cores; a picture is at most 40 megapixels and a file at most [`FILE_MAX`] bytes, both checked
//! before any pixel is decoded. A call that outlives its deadline is answered and forgotten; its
//! thread ends its picture and only then gives its place to the next.
//!
//! A call has no effect outside, so a crash costs nothing but its time.

mod collage;
mod decode;
mod encode;
mod ops;
mod palette;
mod request;
#[cfg(test)]
mod testing;
mod watermark;

use super::{
    checked::{fault, nearest, nearest_byte},
    provider_settings::ProviderSettings,
};
use async_trait::async_trait;
use bytes::Bytes;
use greenroom_actors::pipeline::{
    Fault,
    provider::{Call, CallError, CallOutput, CallPolicy, ProducedFile, Provider},
};
use request::{Colour, Operation, Request};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The largest file that is read, bytes.
const FILE_MAX: u64 = 32 * 1024 * 1024;

/// Why there is no picture.
#[derive(Debug, PartialEq)]
enum PictureFault {
    /// What was asked cannot be done, whatever the picture.
    Rejected(String),
    /// The picture is broken or too large.
    Invalid(String),
}

impl From<PictureFault> for CallError {
    fn from(fault: PictureFault) -> Self {
        match fault {
            PictureFault::Rejected(message) => Self::permanent("PROVIDER_REJECTED", message),
            PictureFault::Invalid(message) => Self::permanent("IMAGE_INVALID", message),
        }
    }
}

/// Works on pictures. Clones are not needed: one for the process.
pub struct ImageProvider {
    /// A place for each core.
    places: Arc<Semaphore>,
}

impl ImageProvider {
    /// A provider that computes `places` pictures at once.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places.max(1))) }
    }
}

#[async_trait]
impl Provider for ImageProvider {
    fn kind(&self) -> &'static str {
        "image"
    }

    fn check(&self, config: &Value, auth: Option<&Value>) -> Result<CallPolicy, Vec<Fault>> {
        let (settings, rest) = ProviderSettings::split(config)?;
        let mut faults: Vec<Fault> =
            rest.keys().map(|key| fault(format!("/{key}"), "is not known to this kind")).collect();
        if auth.is_some() {
            faults.push(fault("/auth", "is not known to this kind"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        // Places within the replica bound it already; slots are taken only where an admin asks for them.
        let max_concurrency = settings.max_concurrency();
        Ok(CallPolicy { max_concurrency, pure_call: true, ..settings.policy() })
    }

    async fn call(&self, call: Call) -> Result<CallOutput, CallError> {
        let request = Request::parse(&call.input)?;
        let deadline = call.deadline.into();
        let work = async {
            // the place first: who waits for one holds no pictures
            let place = Arc::clone(&self.places)
                .acquire_owned()
                .await
                .map_err(|_| CallError::retryable("PROVIDER_UNAVAILABLE", "the replica is ending"))?;
            let mut pictures = Vec::new();
            for file in request.operation.files() {
                pictures.push(call.files.read(file, FILE_MAX).await?);
            }
            let computed = tokio::task::spawn_blocking(move || {
                let _place = place;
                compute(&request, &pictures)
            });
            match computed.await {
                Ok(output) => Ok(output?),
                Err(_) => {
                    tracing::error!(task = %call.task, node = %call.node, "an image operation panicked");
                    Err(CallError::permanent("IMAGE_INVALID", "the picture cannot be read"))
                }
            }
        };
        tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| {
            Err(CallError::retryable("PROVIDER_TIMEOUT", "the picture was not ready in time"))
        })
    }
}

/// Does the operation on the bytes of its files.
fn compute(request: &Request, files: &[Bytes]) -> Result<CallOutput, PictureFault> {
    let file = |index: usize| {
        let bytes = files.get(index).map(Bytes::as_ref).unwrap_or_default();
        decode::decode(bytes)
    };
    let picture = match &request.operation {
        Operation::Resize(resize) => ops::resize(&file(0)?, resize.size(), resize.fit)?,
        Operation::Crop(crop) => ops::crop(&file(0)?, crop)?,
        Operation::Thumbnail(thumbnail) => ops::thumbnail(&file(0)?, thumbnail.size.0)?,
        Operation::Grayscale(_) => ops::grayscale(&file(0)?),
        Operation::Blur(blur) => ops::blur(file(0)?, blur.sigma)?,
        Operation::Collage(collage) => collage::collage(collage, files)?,
        Operation::Watermark(wish) => watermark::watermark(file(0)?, &file(1)?, wish.position, wish.opacity)?,
        Operation::Palette(wish) => {
            let colours = palette::palette(&file(0)?, wish.count.0 as usize);
            let colours: Vec<String> = colours.iter().map(Colour::to_string).collect();
            return Ok(CallOutput { output: json!({ "colors": colours }), files: Vec::new() });
        }
    };
    let bytes = encode::encode(&picture, request.format)?;
    Ok(CallOutput {
        output: json!({ "width": picture.width(), "height": picture.height() }),
        files: vec![ProducedFile {
            field: "file".to_owned(),
            name: format!("{}.{}", request.operation.name(), request.format.extension()),
            content_type: request.format.content_type().to_owned(),
            bytes: bytes.into(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryFiles, call};
    use super::*;
    use greenroom_actors::pipeline::provider::CallFault;
    use std::time::{Duration, Instant};

    async fn outcome_of(input: Value, files: MemoryFiles) -> Result<CallOutput, CallError> {
        ImageProvider::new(1).call(call("image", json!({}), None, input, files)).await
    }

    #[tokio::test]
    async fn a_call_reads_its_files_and_makes_one() {
        let mut files = MemoryFiles::default();
        let photo = files.add(testing::with_orientation(&testing::jpeg(&testing::halves(64, 32)), 6));
        let input = json!({"op": "resize", "file": photo, "height": 32, "format": "png"});
        let made = outcome_of(input, files).await.unwrap();
        assert_eq!(made.output, json!({"width": 16, "height": 32}));
        let file = &made.files[0];
        assert_eq!((file.field.as_str(), file.name.as_str()), ("file", "resize.png"));
        assert_eq!(file.content_type, "image/png");
        let picture = decode::decode(&file.bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (16, 32));
    }

    #[tokio::test]
    async fn a_palette_makes_no_file() {
        let mut files = MemoryFiles::default();
        let photo = files.add(testing::png(&testing::halves(64, 32)));
        let made = outcome_of(json!({"op": "palette", "file": photo, "count": 2}), files).await.unwrap();
        assert_eq!(made.output, json!({"colors": ["#0000ff", "#ff0000"]}));
        assert!(made.files.is_empty());
    }

    #[tokio::test]
    async fn failures_say_whose_fault_they_are() {
        let mut files = MemoryFiles::default();
        let broken = files.add(&b"broken"[..]);
        let error = outcome_of(json!({"op": "grayscale", "file": broken}), files).await.unwrap_err();
        assert_eq!((error.code, error.fault), ("IMAGE_INVALID", CallFault::Permanent));
        let error = outcome_of(json!({"op": "grayscale"}), MemoryFiles::default()).await.unwrap_err();
        assert_eq!((error.code, error.fault), ("PROVIDER_REJECTED", CallFault::Permanent));
    }

    #[tokio::test]
    async fn who_finds_no_place_in_time_is_told_to_come_back() {
        let provider = ImageProvider::new(1);
        let _busy = provider.places.acquire().await.unwrap();
        let mut files = MemoryFiles::default();
        let photo = files.add(testing::png(&testing::halves(8, 8)));
        let mut late = call("image", json!({}), None, json!({"op": "grayscale", "file": photo}), files);
        late.deadline = Instant::now() + Duration::from_millis(50);
        let error = provider.call(late).await.unwrap_err();
        assert_eq!(error.code, "PROVIDER_TIMEOUT");
        assert_eq!(error.fault, CallFault::Retryable { retry_after: None });
    }

    #[test]
    fn a_configuration_has_only_what_every_kind_has() {
        let provider = ImageProvider::new(1);
        let policy = provider.check(&json!({"timeoutMs": 1000}), None).unwrap();
        assert_eq!((policy.max_concurrency, policy.pure_call), (None, true));
        assert_eq!(provider.check(&json!({"maxConcurrency": 2}), None).unwrap().max_concurrency, Some(2));
        for (config, auth, path) in [
            (json!({"baseUrl": "https://ai.example"}), None, "/baseUrl"),
            (json!({}), Some(json!({"type": "bearer", "token": "t"})), "/auth"),
            (json!({"timeoutMs": 0}), None, "/timeoutMs"),
        ] {
            assert_eq!(provider.check(&config, auth.as_ref()).unwrap_err()[0].path, path);
        }
    }
}
