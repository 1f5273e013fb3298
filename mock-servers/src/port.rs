//! The port of a server, which can be closed and opened again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A port of 127.0.0.1 that stays bound without a listener. Linux lets two sockets bind one port as long as
/// at most one listens: the guard never listens, so no other process can bind the port, and connections are
/// refused.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _guard: TcpSocket,
}

impl Port {
    /// Takes a free port.
    pub(crate) fn reserve() -> io::Result<Self> {
        let guard = TcpSocket::new_v4()?;
        guard.set_reuseaddr(true)?;
        guard.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            address: guard.local_addr()?,
            _guard: guard,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it. Dropping the listener closes the port again.
    pub(crate) fn open(&self) -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        socket.listen(BACKLOG)
    }
}
