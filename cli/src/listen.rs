//! Listens on the addresses of the API and of the metrics.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// The environment variable with the address of the API.
pub const API_VARIABLE: &str = "PLATEN_LISTEN";
/// The environment variable with the address of the metrics.
pub const METRICS_VARIABLE: &str = "PLATEN_METRICS_LISTEN";

/// Listens on an address. Up to `backlog` connections wait until the process accepts them. `named_by` is the option or the variable
/// that sets the address, for the error.
///
/// # Errors
///
/// Returns an error, which names the address and `named_by`, if the process cannot listen at the address.
pub fn listen(address: SocketAddr, named_by: &str, backlog: u32) -> anyhow::Result<TcpListener> {
    bind(address, backlog).map_err(|error| {
        let problem = match error.kind() {
            ErrorKind::AddrInUse => {
                "another process, perhaps another Platen, listens there".to_owned()
            }
            _ => error.to_string(),
        };
        anyhow::anyhow!(
            "cannot listen on {address}: {problem}. To listen on another address, set {named_by}"
        )
    })
}

/// Binds a socket to an address and listens on it.
fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Without this option, a restart would have to wait until the kernel has forgotten the connections of the last run.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}
