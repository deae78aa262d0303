//! A free port that stays free for its server when the server restarts.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// The first port to choose from; well-known services use lower ones.
const MIN_PORT: u16 = 10_000;
/// How many ports there must be to choose from, or else the kernel's range is ignored.
const MIN_PORTS: u16 = 1_000;
const MAX_TRIES: usize = 100;

/// A port of 127.0.0.1 that was free a moment ago.
///
/// The kernel never uses it for an outgoing connection, so it is still free when its server restarts.
///
/// # Errors
///
/// No free port was found in 100 tries.
pub fn free_port() -> io::Result<u16> {
    let mut tried = Ok(0);
    for _ in 0..MAX_TRIES {
        let port = rand::random_range(server_ports());
        tried = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|_| port);
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// The ports that the kernel does not use for outgoing connections; all ports if the system does not tell its range.
fn server_ports() -> Range<u16> {
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let first = outgoing.and_then(|range| range.split_whitespace().next()?.parse().ok());
    MIN_PORT
        ..first
            .filter(|first| *first > MIN_PORT + MIN_PORTS)
            .unwrap_or(u16::MAX)
}
