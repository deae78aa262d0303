//! Counts the round trips between this program and Postgres, with a proxy between them.
//!
//! A round trip is whatever a client sends on one connection until the server answers. So statements that are sent together
//! are one round trip, and a statement that is prepared first takes two. The pool also sends pings. They contain no
//! statement, and nobody waits for those that are sent when a connection is given back.
//!
//! Put the URL that [`RoundTrips::before`] returns into the configuration, warm up, call [`RoundTrips::clear`], do the work,
//! and read [`RoundTrips::taken`]. Work of the background is told apart by the labels of its statements.

use std::io;

pub use crate::proxy::RoundTrip;

use crate::proxy::Proxy;

/// A proxy before a Postgres that records round trips.
pub struct RoundTrips {
    proxy: Proxy,
}

impl RoundTrips {
    /// Starts before the server of a URL. Returns also the URL that leads through the proxy.
    ///
    /// # Errors
    /// Returns an error if the URL names no address and port, or if no port is free.
    pub async fn before(url: &str) -> io::Result<(Self, String)> {
        let (proxy, through) = Proxy::before(url).await?;
        proxy.record();
        Ok((Self { proxy }, through))
    }

    /// Forgets what was recorded.
    pub fn clear(&self) {
        self.proxy.take_round_trips();
    }

    /// The round trips since the last [`Self::clear`], in the order in which they began, pings included.
    pub fn taken(&self) -> Vec<RoundTrip> {
        self.proxy.take_round_trips()
    }

    /// The proxy, to disturb the connections.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }
}
