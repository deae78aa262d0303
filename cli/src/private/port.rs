//! A port that stays where it is when its server starts again.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Below these are ports of well-known services.
const LOWEST: u16 = 10_000;
const TRIES: usize = 100;

/// A port that was free a moment ago. The kernel gives it to no outgoing connection, so it is still free when a server
/// that had it starts again.
pub fn free_port() -> io::Result<u16> {
    let mut tried = Ok(0);
    for _ in 0..TRIES {
        let port = rand::random_range(never_given());
        tried = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|_| port);
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// Ports the kernel keeps out of outgoing connections; all there are, where it does not say.
fn never_given() -> Range<u16> {
    let given = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let first = given.and_then(|given| given.split_whitespace().next()?.parse().ok());
    LOWEST
        ..first
            .filter(|first| *first > LOWEST + 1_000)
            .unwrap_or(u16::MAX)
}
