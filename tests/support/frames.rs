//! Frames of HTTP/2 as bytes: what a client library would not send.

use super::{Proxy, Raw};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a GET, as literals.
pub fn get() -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/")])
}

/// Fields, each as a literal.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|field| literal(field.0, field.1)).collect()
}

/// A field with a new name, not indexed (RFC 7541 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)][..], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// A connection on which the preface and these settings were sent.
pub async fn raw(proxy: &Proxy, settings: &[u8]) -> Raw {
    let mut client = proxy.connect().await;
    client.write([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
    client
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The next frame; `None`: the connection ended.
pub async fn next(client: &mut Raw) -> Option<Frame> {
    let head = client.bytes_or_end(9).await?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let payload = client.bytes_or_end(length).await?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// The next frame of these kinds: its kind, stream and payload; `None`: the connection ended.
pub async fn next_of(client: &mut Raw, kinds: &[u8]) -> Option<(u8, u32, Vec<u8>)> {
    loop {
        let frame = next(client).await?;
        if kinds.contains(&frame.kind) {
            return Some((frame.kind, frame.stream, frame.payload));
        }
    }
}
