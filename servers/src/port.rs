//! Finds a free port that stays free when its server restarts.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// The first port to choose from. Well-known services use lower ports.
const MIN_PORT: u16 = 10_000;
/// The least number of ports to choose from. If the kernel's range leaves fewer, it is ignored.
const MIN_PORTS: u16 = 1_000;
const MAX_TRIES: usize = 100;

/// A port of 127.0.0.1 that was free a moment ago.
///
/// The port is below those that the kernel uses for outgoing connections, where the system says which these are. So none of
/// them takes the port while its server restarts. Another server may take it.
///
/// # Errors
///
/// Returns an error if no free port was found in 100 tries.
pub fn free_port() -> io::Result<u16> {
    let mut result = Ok(0);
    for _ in 0..MAX_TRIES {
        let port = rand::random_range(server_ports());
        result = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(|_| port);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The ports from [`MIN_PORT`] on that are below those that the kernel uses for outgoing connections. If the system
/// does not tell its range, or if fewer than [`MIN_PORTS`] are left, all ports from [`MIN_PORT`] on.
fn server_ports() -> Range<u16> {
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let first_outgoing = outgoing.and_then(|range| range.split_whitespace().next()?.parse().ok());
    MIN_PORT
        ..first_outgoing
            .filter(|first| *first >= MIN_PORT + MIN_PORTS)
            .unwrap_or(u16::MAX)
}
