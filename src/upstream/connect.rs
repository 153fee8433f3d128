//! Owns connecting to an endpoint.

use crate::addr::EndpointAddr;
use crate::io::{Stream, TcpOptions};
use crate::stall::timeout;
use crate::tls::{ServerName, client};
use std::io;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kernel says why.
    #[error("connect: {0}")]
    Io(#[from] io::Error),
    /// The handshake failed.
    #[error("{0}")]
    Tls(#[from] client::ConnectError),
    /// Not within `connect_timeout`.
    #[error("connect: no answer within {0:?}")]
    TimedOut(Duration),
}

/// Connects, within `limit` (nginx, `proxy_connect_timeout`), sends what the connection is to begin
/// with, and shakes hands.
///
/// # Errors
/// The endpoint refuses, cannot be reached, or does not answer in time.
pub async fn connect(
    address: &EndpointAddr,
    limit: Duration,
    options: &TcpOptions,
    first: Option<&[u8]>,
    tls: Option<(&client::Config, &ServerName<'static>)>,
) -> Result<Stream, ConnectError> {
    let attempt = async {
        let mut stream = match address {
            EndpointAddr::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                options.apply(&stream)?;
                Stream::Tcp(stream)
            }
            EndpointAddr::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        };
        if let Some(first) = first {
            stream.write_all(first).await?;
        }
        match tls {
            None => Ok(stream),
            Some((config, name)) => {
                Ok(Stream::Layered(Box::new(client::connect(stream, name, config).await?)))
            }
        }
    };
    timeout(limit, attempt).await.unwrap_or(Err(ConnectError::TimedOut(limit)))
}
