//! Owns what is held of the relay, whatever comes from both sides, the clock and the operator: what
//! each side is sent can be read as long as what is relayed to it could be; data passes whole and in
//! order; nothing follows the proxy's Close; no answer to the proxy's Ping passes, ends the tunnel or blinds
//! it; no tick goes on for ever; every tunnel ends.

#![no_main]

use arbitrary::Arbitrary;
use holdline::testing::outcome::{Cause, Ending, PerSide, Side};
use holdline::testing::tunnel::relay::{CloseRequest, Output, Relay};
use holdline::testing::tunnel::timer::TunnelTime;
use holdline::testing::tunnel::{Blind, CloseCodes, Framing, OnViolation, Pong, Settings};
use holdline::testing::ws::frame::{Header, OpCode, encode};
use holdline::testing::ws::mask::MaskKey;
use holdline::testing::ws::scanner::{Found, Rules, Scanner};
use libfuzzer_sys::fuzz_target;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    settings: Wanted,
    framing: Kind,
    entropy: u64,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Plain,
    Deflate,
    Blind,
}

#[derive(Arbitrary, Debug)]
struct Wanted {
    ping_client: Option<Span>,
    ping_upstream: Option<Span>,
    ping_timeout: Span,
    pong_required: bool,
    read_timeout: Option<Span>,
    send_timeout: Option<Span>,
    close_timeout: Span,
    max_lifetime: Option<Span>,
    close_on_violation: bool,
    max_message_size: Option<u16>,
    old_codes: bool,
}

/// From a nanosecond to hours.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Span(u8);

impl Span {
    fn duration(self) -> Duration {
        let number = u64::from(self.0 & 0x1f) + 1;
        match self.0 >> 5 {
            0 => Duration::from_nanos(number),
            1 => Duration::from_micros(number),
            2 => Duration::from_millis(number * 30),
            3 => Duration::from_secs(number * 60),
            _ => Duration::from_secs(number),
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum From {
    Client,
    Upstream,
}

impl From {
    fn side(self) -> Side {
        match self {
            Self::Client => Side::Client,
            Self::Upstream => Side::Upstream,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// Any bytes.
    Bytes(From, &'a [u8]),
    /// The next frame that is legal there, put on the wire and perhaps not sent to its end.
    Frame {
        from: From,
        kind: u8,
        length: u16,
        sent: u8,
    },
    /// More of what was put on the wire.
    More(From, u16),
    /// A Pong to the last Ping that this side was sent, or to the one before.
    Answer(From),
    /// An answer to the proxy's last Ping to this side, in whatever shape.
    BadPong {
        from: From,
        bits: u8,
        masked: bool,
        wide: bool,
        cut: u8,
    },
    Wait(Span),
    ToNextDeadline,
    Blocked(From),
    Progress(From),
    Drained(From),
    Eof(From),
    Gone(From, bool),
    CloseRequest(Span, u8),
    Settings(Wanted),
}

impl Wanted {
    fn settings(&self) -> Arc<Settings> {
        let span = |span: Option<Span>| span.map(Span::duration);
        Arc::new(Settings {
            ping: PerSide { client: span(self.ping_client), upstream: span(self.ping_upstream) },
            ping_timeout: self.ping_timeout.duration(),
            pong: if self.pong_required { Pong::Required } else { Pong::Optional },
            read_timeout: span(self.read_timeout),
            send_timeout: span(self.send_timeout),
            close_timeout: self.close_timeout.duration(),
            max_lifetime: span(self.max_lifetime),
            on_violation: if self.close_on_violation { OnViolation::Close } else { OnViolation::Blind },
            max_message_size: self.max_message_size.map(u64::from),
            close_codes: if self.old_codes { CloseCodes::Rfc6455 } else { CloseCodes::Registered },
        })
    }
}

/// What the relay sent during one call.
struct Sent {
    pieces: Vec<(Side, Vec<u8>)>,
    entropy: u64,
}

impl Sent {
    /// Numbers that follow from the input alone: a run can be repeated.
    fn number(&mut self) -> u32 {
        self.entropy =
            self.entropy.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.entropy >> 32) as u32
    }
}

impl Output for Sent {
    fn send(&mut self, to: Side, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "nothing is sent that is nothing");
        self.pieces.push((to, bytes.to_vec()));
        assert!(self.pieces.len() < 100_000, "a call that goes on for ever");
    }

    fn mask_key(&mut self) -> MaskKey {
        MaskKey(self.number().to_be_bytes())
    }
}

/// The way from one side to the other, read once as it comes and once as it goes.
struct Way {
    source: Reader,
    sink: Reader,
    /// Control frames that came and have not gone.
    controls: VecDeque<Vec<u8>>,
    /// The proxy's Close has gone this way.
    closed: bool,
    /// The last Pings that went this way.
    pings: VecDeque<Vec<u8>>,
    /// The last of the proxy among them.
    own_ping: Option<Vec<u8>>,
    /// Legal frames under way from the source.
    wire: VecDeque<u8>,
    in_message: bool,
}

/// A reader of frames: the scanner, which has a target of its own.
struct Reader {
    scanner: Scanner,
    /// Bytes of data frames.
    data: Vec<u8>,
    readable: bool,
}

impl Reader {
    fn new(rules: Rules) -> Self {
        Self { scanner: Scanner::new(rules), data: Vec::new(), readable: true }
    }

    /// Reads on; gives the control frames.
    fn read(&mut self, mut input: &[u8]) -> Vec<Vec<u8>> {
        let mut controls = Vec::new();
        while self.readable {
            match self.scanner.next(input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    match event.found {
                        Found::Control(_) => controls.push(event.bytes(input).to_vec()),
                        _ => self.data.extend_from_slice(event.bytes(input)),
                    }
                    input = &input[event.taken..];
                }
                Err(_) => self.readable = false,
            }
        }
        controls
    }
}

struct Model {
    relay: Relay,
    entropy: u64,
    now: TunnelTime,
    /// By the destination.
    ways: PerSide<Way>,
    ending: Option<Ending>,
    blocked: PerSide<bool>,
    was_blind: bool,
}

impl Model {
    fn new(input: &Input<'_>) -> Self {
        let (framing, deflate) = match input.framing {
            Kind::Plain => (Framing::WebSocket { deflate: false }, false),
            Kind::Deflate => (Framing::WebSocket { deflate: true }, true),
            Kind::Blind => (Framing::Blind(Blind::Protocol), false),
        };
        let way = |masked| Way {
            source: Reader::new(Rules { masked, deflate }),
            sink: Reader::new(Rules { masked, deflate }),
            controls: VecDeque::new(),
            closed: false,
            pings: VecDeque::new(),
            own_ping: None,
            wire: VecDeque::new(),
            in_message: false,
        };
        let tags = PerSide { client: input.entropy as u32, upstream: (input.entropy >> 32) as u32 };
        Self {
            relay: Relay::new(input.settings.settings(), framing, tags),
            entropy: input.entropy,
            now: TunnelTime::ZERO,
            ways: PerSide { client: way(false), upstream: way(true) },
            ending: None,
            blocked: PerSide::default(),
            was_blind: matches!(input.framing, Kind::Blind),
        }
    }

    fn sent(&mut self) -> Sent {
        let mut sent = Sent { pieces: Vec::new(), entropy: self.entropy };
        self.entropy ^= u64::from(sent.number()) << 16;
        sent
    }

    fn is_over(&self) -> bool {
        self.relay.is_settled() || self.relay.is_expired(self.now)
    }

    fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Bytes(from, bytes) => self.bytes(from.side(), bytes),
            Step::Frame { from, kind, length, sent } => {
                let side = from.side();
                self.put(side, *kind, usize::from(*length));
                self.more(side, usize::from(*sent) * 300);
            }
            Step::More(from, length) => self.more(from.side(), usize::from(*length)),
            Step::Answer(from) => {
                let side = from.side();
                if let Some(ping) = self.ways[side].pings.pop_back() {
                    let mask = (side == Side::Client).then_some(MaskKey([1, 2, 3, 4]));
                    self.ways[side.other()].wire.extend(encode(OpCode::Pong, &ping, mask));
                    self.more(side, usize::MAX);
                }
            }
            Step::BadPong { from, bits, masked, wide, cut } => {
                self.answer_badly(from.side(), *bits, *masked, *wide, usize::from(*cut));
            }
            Step::Wait(span) => {
                self.now = self.now + span.duration();
                self.tick();
            }
            Step::ToNextDeadline => {
                self.now = self.now.max(self.relay.next_deadline().unwrap_or(self.now));
                self.tick();
            }
            Step::Blocked(from) => {
                self.blocked[from.side()] = true;
                self.relay.on_blocked(from.side(), self.now);
            }
            Step::Progress(from) if self.blocked[from.side()] => {
                self.relay.on_progress(from.side(), self.now);
            }
            Step::Progress(_) => {}
            Step::Drained(from) => {
                self.blocked[from.side()] = false;
                self.relay.on_drained(from.side(), self.now);
            }
            Step::Eof(from) => self.eof(from.side()),
            Step::Gone(from, reset) => {
                let cause = if *reset { Cause::Reset } else { Cause::TcpTimeout };
                let mut sent = self.sent();
                self.relay.on_gone(from.side(), cause, self.now, &mut sent);
                assert!(self.relay.is_dead(from.side()));
                self.check(None, &[], sent);
            }
            Step::CloseRequest(span, cause) => {
                let cause = [Cause::Drain, Cause::Shutdown, Cause::EndpointRemoved][usize::from(*cause % 3)];
                self.relay.request_close(CloseRequest {
                    at: self.now + span.duration(),
                    cause,
                    reason: None,
                });
            }
            Step::Settings(wanted) => self.relay.set_settings(wanted.settings()),
        }
    }

    /// Sends an answer to the proxy's Ping between two frames, in two reads.
    fn answer_badly(&mut self, from: Side, bits: u8, masked: bool, wide: bool, cut: usize) {
        let source = &self.ways[from.other()].source;
        let is_between = source.readable && source.scanner.at_boundary() && !source.scanner.holds_back();
        let may_send = self.relay.wants_bytes(from) && !self.is_over() && self.ending.is_none();
        let Some(ping) =
            self.ways[from].own_ping.clone().filter(|_| is_between && may_send && !self.was_blind)
        else {
            return;
        };
        let key = [1, 2, 3, 4];
        let mut wire = vec![0x0a | (bits & 0xf0)];
        let mask = u8::from(masked) << 7;
        if wide {
            wire.extend([mask | 126, 0, ping.len() as u8])
        } else {
            wire.push(mask | ping.len() as u8)
        }
        if masked {
            wire.extend(key);
        }
        wire.extend(ping.iter().enumerate().map(|(n, byte)| if masked { byte ^ key[n % 4] } else { *byte }));
        let (first, second) = wire.split_at(cut % wire.len());
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            let mut sent = self.sent();
            self.relay.on_bytes(from, piece, self.now, &mut sent);
            let outcome = self.relay.outcome(self.now);
            assert!(
                outcome.blind.is_none() && outcome.ending.cause == Cause::Aborted,
                "an answer is no reason"
            );
            self.check(None, &[], sent);
        }
    }

    /// Puts a legal frame on the wire of a side.
    fn put(&mut self, from: Side, kind: u8, length: usize) {
        let way = &mut self.ways[from.other()];
        let fin = kind & 0x80 != 0;
        let opcode = match kind % 8 {
            0 => OpCode::Ping,
            1 => OpCode::Pong,
            2 => OpCode::Close,
            _ if way.in_message => OpCode::Continuation,
            3 | 4 => OpCode::Text,
            _ => OpCode::Binary,
        };
        let control = opcode.is_control();
        let length = if control { length % 126 } else { length };
        let mask = (from == Side::Client).then_some(MaskKey([kind, 2, 3, 4]));
        let header = Header { fin: fin || control, rsv1: false, opcode, mask, length: length as u64 };
        if !control {
            way.in_message = !fin;
        }
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.resize(bytes.len() + length, kind);
        way.wire.extend(bytes);
    }

    fn more(&mut self, from: Side, most: usize) {
        let wire = &mut self.ways[from.other()].wire;
        let length = wire.len().min(most);
        let bytes: Vec<u8> = wire.drain(..length).collect();
        self.bytes(from, &bytes);
    }

    /// As a driver does: nothing is read from a side that is over, and an empty read is none.
    fn bytes(&mut self, from: Side, bytes: &[u8]) {
        if bytes.is_empty() || !self.relay.wants_bytes(from) || self.is_over() {
            return;
        }
        let way = &mut self.ways[from.other()];
        let controls = way.source.read(bytes);
        way.controls.extend(controls);
        let mut sent = self.sent();
        self.relay.on_bytes(from, bytes, self.now, &mut sent);
        self.check(Some(from), bytes, sent);
    }

    fn eof(&mut self, side: Side) {
        if self.relay.wants_bytes(side) {
            let mut sent = self.sent();
            self.relay.on_eof(side, self.now, &mut sent);
            assert!(!self.relay.wants_bytes(side));
            self.check(None, &[], sent);
        }
    }

    fn tick(&mut self) {
        let mut sent = self.sent();
        self.relay.on_timer(self.now, &mut sent);
        let few = sent.pieces.len() <= 4;
        assert!(few, "one tick sends a Ping and a Close to each side at most");
        self.check(None, &[], sent);
        if self.ending.is_none() {
            let next = self.relay.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "what was due was done");
        }
    }

    /// Holds what a call sent against what came.
    fn check(&mut self, from: Option<Side>, input: &[u8], sent: Sent) {
        let outcome = self.relay.outcome(self.now);
        let blind = outcome.blind.is_some();
        if self.was_blind {
            let to = from.map(Side::other);
            let passed: Vec<u8> = sent.pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            assert!(sent.pieces.iter().all(|(side, _)| Some(*side) == to), "nothing is injected blindly");
            assert!(passed == input || (passed.is_empty() && self.ending.is_some()), "blind is untouched");
        } else {
            for (to, bytes) in &sent.pieces {
                self.received(*to, bytes, from, blind);
            }
        }
        self.was_blind = blind;
        // The first sign of the end is the end.
        let ending = (outcome.ending.cause != Cause::Aborted).then_some(outcome.ending);
        if self.ending.is_some() {
            assert_eq!(ending, self.ending);
        }
        self.ending = ending;
        for side in Side::BOTH {
            let way = &self.ways[side];
            if !way.source.readable || blind {
                continue;
            }
            assert!(way.sink.readable, "what the {side:?} is sent cannot be read");
            assert!(way.source.data.starts_with(&way.sink.data), "data is changed on its way");
            if self.ending.is_none() {
                assert_eq!(way.source.data.len(), way.sink.data.len(), "data is kept back");
            }
        }
    }

    fn received(&mut self, to: Side, bytes: &[u8], from: Option<Side>, blind: bool) {
        let way = &mut self.ways[to];
        assert!(!way.closed, "the {to:?} is sent something behind the proxy's Close");
        if blind || !way.source.readable {
            // Where the source cannot be read, what passed is its own affair, but for the proxy's Close.
            let close = (!blind).then(|| Header::decode(bytes).ok().flatten()).flatten();
            let is_close = close.is_some_and(|(header, size)| {
                header.opcode == OpCode::Close && bytes.len() == size + header.length as usize
            });
            way.closed = is_close && from != Some(to.other());
            return;
        }
        for control in way.sink.read(bytes) {
            let Ok(Some((header, size))) = Header::decode(&control) else { panic!("it was just read") };
            let mut payload = control[size..].to_vec();
            if let Some(key) = header.mask {
                key.apply(&mut payload);
            }
            if header.opcode == OpCode::Ping {
                way.pings.push_back(payload.clone());
            }
            // A Pong to the proxy's Ping goes no further; all else does.
            let is_pong = |frame: &Vec<u8>| frame[0] & 0x0f == 0x0a;
            while way.controls.front().is_some_and(|front| is_pong(front) && *front != control) {
                way.controls.pop_front();
            }
            if from == Some(to.other()) && way.controls.front() == Some(&control) {
                way.controls.pop_front();
            } else {
                assert!(payload.len() < 126, "what is injected is small");
                assert!(!way.closed, "one Close is enough");
                if header.opcode == OpCode::Ping {
                    way.own_ping = Some(payload);
                }
                way.closed = header.opcode == OpCode::Close;
            }
        }
    }

    /// Without a byte more, everything ends.
    fn finish(&mut self) {
        for _ in 0..3 {
            match self.relay.next_deadline() {
                Some(next) if !self.is_over() => {
                    self.now = self.now.max(next);
                    self.tick();
                }
                _ => break,
            }
        }
        if self.ending.is_none() {
            self.relay.request_close(CloseRequest { at: self.now, cause: Cause::Shutdown, reason: None });
            self.tick();
        }
        assert!(self.ending.is_some(), "an order ends it");
        if !self.is_over() {
            let deadline = self.relay.next_deadline();
            assert!(deadline.is_some_and(|deadline| self.relay.is_expired(deadline)), "the end comes");
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut model = Model::new(&input);
    for step in &input.steps {
        if model.is_over() {
            break;
        }
        model.step(step);
    }
    model.finish();
});
