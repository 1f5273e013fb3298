//! An address that refuses connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A bound port without a listener: Linux resets connection attempts, and no other process can bind the port
/// while this guard lives.
#[derive(Debug)]
pub struct RefusingServer {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl RefusingServer {
    /// Reserves a port. The only errors are those of the operating system.
    pub fn start() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        Ok(Self {
            address,
            _socket: socket,
        })
    }

    /// `http://127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_refused_while_the_guard_lives() {
        let server = RefusingServer::start().unwrap();
        for _ in 0..3 {
            let error = tokio::net::TcpStream::connect(server.address())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
        assert!(std::net::TcpListener::bind(server.address()).is_err());
    }
}
