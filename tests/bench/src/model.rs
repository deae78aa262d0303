//! The model that every contestant calls: it answers as Vertex AI does, with prepared images, after a chosen time.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use drawing::{Format, Scene};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use image::{DynamicImage, ImageFormat};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// How many different images are sent in turn.
const IMAGES: u64 = 4;
/// The noise of a camera, in steps of 0 to 255 to each side. With it an image of 2048² pixels has about 7 MB as PNG, as one
/// from a model.
const NOISE: i16 = 4;

/// The size of a connection's send buffer, in bytes. An answer that is not read stays with a real model, on another
/// machine. Without this limit the kernel copies some megabytes of each answer at once, on the machine that is measured.
const SEND_BUFFER: u32 = 256 << 10;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// Prepared answers, by what the images show.
pub(crate) struct Answers {
    /// 2048² pixels, like a photograph.
    photos: Vec<Bytes>,
    /// 1024² pixels of one color: such an image costs almost nothing, so the pipeline itself is measured.
    flat: Vec<Bytes>,
}

/// A model server. Dropping it stops it.
pub(crate) struct Model {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

struct State {
    answers: Arc<Answers>,
    latency: Duration,
    calls: AtomicU64,
    open: AtomicUsize,
    most_open: AtomicUsize,
    first_answer: OnceLock<Instant>,
}

impl Answers {
    /// Draws the images. It takes some seconds.
    pub(crate) fn draw() -> Result<Self> {
        let photos = (0..IMAGES).map(|number| answer(&photo(number)?));
        let flat = (0..IMAGES).map(|number| answer(&flat(number)?));
        Ok(Self {
            photos: photos.collect::<Result<_>>()?,
            flat: flat.collect::<Result<_>>()?,
        })
    }
}

/// A drawn scene with the noise of a camera.
fn photo(number: u64) -> Result<Vec<u8>> {
    let scene = Scene {
        model: "bench".to_owned(),
        title: format!("image {number}"),
        inputs: Vec::new(),
        ratio: "1:1".to_owned(),
        seed: [u8::try_from(number)?; 32],
    };
    let drawn = drawing::draw(&scene, (2048, 2048), Format::Png);
    let mut image = image::load_from_memory(&drawn)?.into_rgb8();
    let mut random = SmallRng::seed_from_u64(number);
    for value in image.iter_mut() {
        // The sum of two even distributions is close to the noise of a sensor.
        let noise = random.random_range(-NOISE..=NOISE) + random.random_range(-NOISE..=NOISE);
        let noisy = i16::from(*value) + noise;
        *value = u8::try_from(noisy.clamp(0, 255))?;
    }
    encode(&image.into())
}

fn flat(number: u64) -> Result<Vec<u8>> {
    let red = u8::try_from(number * 40)?;
    encode(&image::RgbImage::from_pixel(1024, 1024, image::Rgb([red, 90, 160])).into())
}

fn encode(image: &DynamicImage) -> Result<Vec<u8>> {
    let mut file = std::io::Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png)?;
    Ok(file.into_inner())
}

/// The body of a 200 from `generateContent`.
fn answer(image: &[u8]) -> Result<Bytes> {
    let image = BASE64_STANDARD.encode(image);
    let body = serde_json::json!({
        "candidates": [{
            "content": {"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": image}}]},
            "finishReason": "STOP",
        }],
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 1290, "totalTokenCount": 1302},
    });
    Ok(serde_json::to_vec(&body)?.into())
}

impl Model {
    /// Serves on a free port. Each call is answered after `latency`. A model whose name contains `flat` sends flat images.
    pub(crate) fn start(answers: &Arc<Answers>, latency: Duration) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            answers: Arc::clone(answers),
            latency,
            calls: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            first_answer: OnceLock::new(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            _accepting: accepting,
        })
    }

    /// The greatest number of calls that were open at the same time.
    pub(crate) fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::Relaxed)
    }

    /// When the first call was answered.
    pub(crate) fn first_answer(&self) -> Option<Instant> {
        self.state.first_answer.get().copied()
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Large answers go out faster; the default is meant for small packets.
        let _only_slower_without = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let service = service_fn(|request| generate(Arc::clone(&state), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A contestant that is stopped leaves connections in the middle of an answer.
            let _ended = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn generate(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_flat = request.uri().path().contains("flat");
    if !request.uri().path().ends_with(":generateContent") {
        let mut missing = Response::new(Full::default());
        *missing.status_mut() = StatusCode::NOT_FOUND;
        return Ok(missing);
    }
    let open = OpenCall::new(&state);
    // A body that breaks off belongs to a client that has gone.
    let _body = request.into_body().collect().await;
    tokio::time::sleep(state.latency).await;
    drop(open);
    state.first_answer.get_or_init(Instant::now);
    let images = if is_flat {
        &state.answers.flat
    } else {
        &state.answers.photos
    };
    let number = state.calls.fetch_add(1, Ordering::Relaxed) % IMAGES;
    let body = images[usize::try_from(number).expect("less than four")].clone();
    let mut answer = Response::new(Full::new(body));
    let json = hyper::header::HeaderValue::from_static("application/json");
    answer
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    Ok(answer)
}

/// Counts a call as open until it is dropped.
struct OpenCall<'a>(&'a State);

impl<'a> OpenCall<'a> {
    fn new(state: &'a State) -> Self {
        let open = state.open.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_open.fetch_max(open, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
