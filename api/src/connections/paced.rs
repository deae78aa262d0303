//! A connection's stream with a time limit for each direction, and the bodies of the answers sent on it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::table::{CloseReason, Phase, Slot};

/// A stream that fails when the client is too slow.
pub(super) struct TimedStream {
    stream: TcpStream,
    slot: Arc<Slot>,
    /// When the head of a request must be complete, or when the idle time ends. The deadline has no meaning while a request is
    /// answered.
    read_deadline: Pin<Box<Sleep>>,
    /// When the client must have read something; `None` if the last write did not have to wait.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, slot: Arc<Slot>) -> Self {
        let read_deadline = Box::pin(sleep(slot.port().head_timeout));
        Self {
            stream,
            slot,
            read_deadline,
            write_deadline: None,
        }
    }

    /// Gives the client the time of the current phase, from now on.
    fn restart_read_deadline(&mut self) {
        if let Some(timeout) = self.slot.read_timeout() {
            self.read_deadline.as_mut().reset(Instant::now() + timeout);
        }
    }

    /// Passes on the result of a write, or an error if the client has read nothing for too long.
    fn check_write<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_deadline = None;
            return result;
        }
        let timeout = self.slot.port().write_timeout;
        let deadline = self
            .write_deadline
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(self.slot.timed_out(CloseReason::WriteTimeout)))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.stream)
            .poll_read(context, buffer)?
            .is_ready()
        {
            match self.slot.phase() {
                Phase::Idle => {
                    self.slot.enter(Phase::ReadingHead);
                    self.restart_read_deadline();
                }
                // The deadline stays: the first head must be complete in time, counted from the start of the connection.
                Phase::Silent => self.slot.enter(Phase::ReadingHead),
                Phase::ReadingHead | Phase::Answering | Phase::Sending => {}
            }
            return Poll::Ready(Ok(()));
        }
        if self.slot.read_timeout().is_none() {
            return Poll::Pending;
        }
        ready!(self.read_deadline.as_mut().poll(context));
        Poll::Ready(Err(match self.slot.phase() {
            Phase::Silent => self.slot.timed_out(CloseReason::NoRequest),
            Phase::ReadingHead => self.slot.timed_out(CloseReason::HeadTimeout),
            // The end of the idle time is normal, so it is not counted as a refusal.
            _ => io::ErrorKind::TimedOut.into(),
        }))
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check_write(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper calls this also when a whole answer was written. Once all of it is in the socket, phase `Sending` ends here, and the
    /// connection is idle.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.slot.phase() == Phase::Sending {
            self.slot.set_idle();
            self.restart_read_deadline();
            // It is possible that hyper does not read again before the deadline. Polling the deadline here registers it to wake the
            // connection.
            let _ = self.read_deadline.as_mut().poll(context);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of an answer. Hyper drops the body when it has taken the last byte. Then the phase `Sending` begins.
pub(super) struct AnswerBody {
    body: Body,
    slot: Arc<Slot>,
}

impl AnswerBody {
    pub(super) fn new(body: Body, slot: Arc<Slot>) -> Self {
        Self { body, slot }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.slot.enter(Phase::Sending);
    }
}

impl HttpBody for AnswerBody {
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
