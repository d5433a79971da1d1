//! Streams a blocking reader as the body of a reply.
//!
//! In: a [`Content`]. Out: a body of exactly that many bytes, or one that breaks off with an error,
//! so that a client never takes a part for the whole. At most two buffers are held.

use std::{
    io::{self, Read},
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

use super::Content;
use crate::model::limits::CONTENT_BUFFER_BYTES;

/// A body fed by a thread.
struct ContentBody {
    left: u64,
    buffers: mpsc::Receiver<io::Result<Bytes>>,
}

/// The body, and the work that feeds it, to be run where blocking is allowed. The work ends when
/// everything is sent or the body is dropped.
pub(super) fn stream(content: Content) -> (Body, impl FnOnce() + Send) {
    let (sender, buffers) = mpsc::channel(1);
    let body = ContentBody { left: content.bytes, buffers };
    (Body::new(body), move || feed(content, &sender))
}

fn feed(content: Content, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let mut left = content.bytes;
    let mut reader = content.reader;
    while left > 0 {
        let want = left.min(CONTENT_BUFFER_BYTES as u64);
        let mut buffer = Vec::new();
        let read = reader.by_ref().take(want).read_to_end(&mut buffer);
        let message = match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Bytes::from(buffer)),
            Err(error) => Err(error),
        };
        left -= message.as_ref().map_or(left, |bytes| bytes.len() as u64);
        if sender.blocking_send(message).is_err() {
            return;
        }
    }
}

impl HttpBody for ContentBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.buffers.poll_recv(cx).map(|message| match message {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
