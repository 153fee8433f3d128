//! Owns the tests of the relay as a whole, with random chunks in random order.

use super::*;
use proptest::prelude::*;

/// A frame of a random conversation. Its payload identifies it.
#[derive(Clone, Debug)]
struct Spoken {
    opcode: u8,
    fin: bool,
    length: usize,
}

fn spoken() -> impl Strategy<Value = Spoken> {
    (0..8_u8, any::<bool>(), prop_oneof![0..130_usize, 0..20_usize, 60_000..70_000_usize])
        .prop_map(|(opcode, fin, length)| Spoken { opcode, fin, length })
}

/// Encodes a conversation as valid frames.
fn wire(from: Side, spoken: &[Spoken]) -> Vec<Vec<u8>> {
    let mut in_message = false;
    let frames = spoken.iter().enumerate().map(|(number, Spoken { opcode, fin, length })| {
        let (opcode, control) = match opcode {
            0 => (OpCode::Ping, true),
            1 => (OpCode::Pong, true),
            _ if in_message => (OpCode::Continuation, false),
            _ => (OpCode::Binary, false),
        };
        let length = if control { length % 110 } else { *length };
        // The payload names its side. Otherwise a Pong could look like an answer to the other side's Ping.
        let mut payload = format!("{from:?}{number:05}").into_bytes();
        payload.resize(payload.len() + length, b'.');
        let mut bytes = frame(from, opcode, &payload);
        if !control {
            in_message = !fin;
            bytes[0] = bytes[0] & 0x7f | u8::from(*fin) << 7;
        }
        bytes
    });
    frames.collect()
}

/// The frames that one side has yet to send: its own, and Pongs to Holdline's Pings between them.
struct Speaker {
    words: std::collections::VecDeque<Vec<u8>>,
    /// The rest of the current frame.
    current: Vec<u8>,
    /// Pongs that it owes, and whether the Ping came from the other side.
    pongs: std::collections::VecDeque<(Vec<u8>, bool)>,
    /// Whether it answers every Ping, not only Holdline's.
    obedient: bool,
    /// The frames that it has sent to the other side.
    said: Vec<Vec<u8>>,
}

impl Speaker {
    fn new(words: &[Vec<u8>], obedient: bool) -> Self {
        let words = words.iter().cloned().collect();
        Self { words, current: vec![], pongs: Default::default(), obedient, said: vec![] }
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let next = self.pongs.pop_front().or_else(|| Some((self.words.pop_front()?, true)));
        let (next, passes) = next?;
        if passes {
            self.said.push(next.clone());
        }
        Some(next)
    }

    fn hears_ping(&mut self, pong: Vec<u8>, foreign: bool) {
        if self.obedient || !foreign {
            self.pongs.push_back((pong, foreign));
        }
    }

    fn next(&mut self, most: usize) -> Vec<u8> {
        let mut chunk = Vec::new();
        while chunk.len() < most {
            if self.current.is_empty() {
                let Some(next) = self.next_frame() else { break };
                self.current = next;
            }
            let take = self.current.len().min(most - chunk.len());
            chunk.extend(self.current.drain(..take));
        }
        chunk
    }
}

proptest! {
    /// With any chunks in any order, a side receives what the other sent, plus injected frames at frame boundaries. Pongs
    /// that answer or may answer Holdline's Pings are missing. If both sides answer every Ping, no Pong is added.
    #[test]
    fn nothing_is_lost_or_invented(
        client in proptest::collection::vec(spoken(), 0..20),
        upstream in proptest::collection::vec(spoken(), 0..20),
        obedient in any::<bool>(),
        steps in proptest::collection::vec((any::<bool>(), 1..5000_usize, 0..30_u64), 1..200),
    ) {
        let quick = PerSide { client: Some(seconds(5)), upstream: Some(seconds(5)) };
        let settings = Settings { ping: quick, pong: Pong::Optional, ping_timeout: seconds(2), ..settings() };
        let (mut relay, mut out) = (relay(settings), Sent::default());
        let said = PerSide { client: wire(CLIENT, &client), upstream: wire(UPSTREAM, &upstream) };
        let mut speakers = PerSide {
            client: Speaker::new(&said.client, obedient),
            upstream: Speaker::new(&said.upstream, obedient),
        };
        let mut received = PerSide::<Vec<Vec<u8>>>::default();
        let mut unread = PerSide::<Vec<u8>>::default();
        let (mut now, mut wake_up) = (TunnelTime::ZERO, None);
        let rest = std::iter::repeat_n([(true, 70_000, 1), (false, 70_000, 1)], 40).flatten();
        for (left, most, pause) in steps.into_iter().chain(rest) {
            now = now + seconds(pause);
            let from = if left { CLIENT } else { UPSTREAM };
            let chunk = speakers[from].next(most);
            if !chunk.is_empty() {
                relay.on_bytes(from, &chunk, now, &mut out);
            }
            relay.on_timer(now, &mut out);
            let next = relay.next_deadline();
            if !relay.take_earlier_deadline() {
                prop_assert!(next.is_none() || next >= wake_up, "{next:?}, before {wake_up:?}, and it was not told");
            }
            wake_up = next;
            for side in Side::BOTH {
                unread[side].append(&mut out.0[side]);
                // The reference reader takes whole frames in order.
                while let Ok(Some((header, size))) = Header::decode(&unread[side]) {
                    let end = size + header.length as usize;
                    if unread[side].len() < end { break }
                    let bytes: Vec<u8> = unread[side].drain(..end).collect();
                    let mut payload = bytes[size..].to_vec();
                    if let Some(key) = header.mask { key.apply(&mut payload) }
                    let foreign = payload.len() != 8;
                    if header.opcode == OpCode::Ping {
                        speakers[side].hears_ping(frame(side, OpCode::Pong, &payload), foreign);
                    }
                    if header.opcode != OpCode::Ping || foreign {
                        received[side].push(bytes);
                    }
                }
            }
        }
        for side in Side::BOTH {
            prop_assert!(unread[side].is_empty(), "a frame was left unfinished");
            prop_assert!(speakers[side].words.is_empty(), "not all was said");
            let pings = wire_payloads(&said[side], OpCode::Ping);
            only_what_was_said(&received[side], &speakers[side.other()].said, &pings, obedient)?;
        }
    }
}

/// Whether a side received what the other side said, and nothing else. `pings` are those that the side sent.
fn only_what_was_said(
    received: &[Vec<u8>],
    said: &[Vec<u8>],
    pings: &[Vec<u8>],
    obedient: bool,
) -> Result<(), TestCaseError> {
    // Pongs that Holdline sent for a side that skips answers, once each.
    let mut given = Vec::new();
    let mut expected = said.iter().peekable();
    // An unsolicited Pong may count as the answer to one of Holdline's Pings.
    let unasked = |want: &&Vec<u8>| {
        let (header, payload) = read(want);
        header.opcode == OpCode::Pong && !pings.contains(&payload)
    };
    for bytes in received {
        if expected.next_if(|want| *want == bytes).is_some() {
            continue;
        }
        let (header, payload) = read(bytes);
        let answers = header.opcode == OpCode::Pong && pings.contains(&payload);
        if answers && !obedient {
            prop_assert!(!given.contains(&payload), "given twice");
            given.push(payload);
            continue;
        }
        while expected.next_if(|want| *want != bytes && unasked(want)).is_some() {}
        prop_assert_eq!(expected.next(), Some(bytes), "invented");
    }
    prop_assert!(expected.find(|want| !unasked(want)).is_none(), "lost something");
    Ok(())
}

fn read(bytes: &[u8]) -> (Header, Vec<u8>) {
    let (header, size) = Header::decode(bytes).unwrap().unwrap();
    let mut payload = bytes[size..].to_vec();
    if let Some(key) = header.mask {
        key.apply(&mut payload);
    }
    (header, payload)
}

fn wire_payloads(frames: &[Vec<u8>], opcode: OpCode) -> Vec<Vec<u8>> {
    let read = frames.iter().map(|bytes| read(bytes));
    read.filter(|(header, _)| header.opcode == opcode).map(|(_, payload)| payload).collect()
}
