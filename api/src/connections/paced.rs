//! The two directions of a connection, each with a time limit, and the answers that go out on it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::table::{Phase, RefusalReason, Slot};

/// A stream that ends with an error when the client is too slow.
pub(super) struct Paced {
    stream: TcpStream,
    place: Arc<Slot>,
    /// When the head of a request must have come, or the idle time is over. It means nothing while a request is answered.
    reading: Pin<Box<Sleep>>,
    /// When the client must have taken something; `None` while it does.
    writing: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn new(stream: TcpStream, place: Arc<Slot>) -> Self {
        let reading = Box::pin(sleep(place.port().head));
        Self {
            stream,
            place,
            reading,
            writing: None,
        }
    }

    fn start_waiting(&mut self) {
        if let Some(timeout) = self.place.read_timeout() {
            self.reading.as_mut().reset(Instant::now() + timeout);
        }
    }

    /// What became of a write, or an error where the client has taken nothing for too long.
    fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let write = self.place.port().write;
        let writing = self.writing.get_or_insert_with(|| Box::pin(sleep(write)));
        ready!(writing.as_mut().poll(context));
        Poll::Ready(Err(self.place.too_slow(RefusalReason::Write)))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.stream)
            .poll_read(context, buffer)?
            .is_ready()
        {
            match self.place.phase() {
                Phase::Idle => {
                    self.place.enter(Phase::Asking);
                    self.start_waiting();
                }
                Phase::Silent => self.place.enter(Phase::Asking),
                Phase::Asking | Phase::Answering | Phase::Sending => {}
            }
            return Poll::Ready(Ok(()));
        }
        if self.place.read_timeout().is_none() {
            return Poll::Pending;
        }
        ready!(self.reading.as_mut().poll(context));
        Poll::Ready(Err(match self.place.phase() {
            Phase::Silent => self.place.too_slow(RefusalReason::Silent),
            Phase::Asking => self.place.too_slow(RefusalReason::Head),
            // An idle time that is over is nobody's fault.
            _ => io::ErrorKind::TimedOut.into(),
        }))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called once all of an answer is in the socket, too.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.place.phase() == Phase::Sending {
            self.place.set_idle();
            self.start_waiting();
            // Nobody need read again before that time, so it must wake the connection by itself.
            let _ = self.reading.as_mut().poll(context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of an answer. When it is dropped, all of it is on its way.
pub(super) struct Answer {
    body: Body,
    place: Arc<Slot>,
}

impl Answer {
    pub(super) fn new(body: Body, place: Arc<Slot>) -> Self {
        Self { body, place }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.place.enter(Phase::Sending);
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
