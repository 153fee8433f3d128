//! Owns the Pings of one side: when the next is due, whose a Pong is, when silence means death.

use crate::tunnel::timer::Tick;
use std::time::Duration;

/// Tag and sequence number of an injected Ping.
const PAYLOAD: usize = 8;

/// Ticks are microseconds: a shorter interval would leave the next Ping due for ever.
const SHORTEST: Duration = Duration::from_millis(1);

/// The Pings that one side is sent, by the proxy and by the other side.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// When the last Ping of the proxy went out; the opening, before the first.
    last_ping: Tick,
    /// The latest Ping of the *other side* that passed and was not answered yet.
    foreign: Option<Box<Foreign>>,
    /// What marks the proxy's Pings to this side; known to nobody else until it is sent.
    tag: u32,
    sent: u32,
    /// Those up to this number are answered.
    answered: u32,
    /// A Ping of the proxy is out and no byte has come since.
    awaiting: bool,
    /// This side has answered one otherwise than RFC 6455 5.5.3 asks.
    answers_badly: bool,
    /// A Ping waits for the next frame boundary.
    pub(super) queued_ping: bool,
    /// So does the Pong that the other side's [`Keepalive`] has found to be missing.
    pub(super) queued_pong: bool,
}

#[derive(Debug)]
struct Foreign {
    payload: Vec<u8>,
    /// When the first of those passed that no answer has come to since.
    unanswered_since: Tick,
    /// How many Pings of the proxy had gone before it.
    behind: u32,
    /// How many of the other side's passed before it, behind the last that was answered.
    earlier: u32,
    /// The proxy has answered it in this side's name.
    answered: bool,
}

/// Whose a Pong is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The proxy's: it answers the Ping sent at `sent` and goes no further. `missing`: it has answered
    /// a Ping of the other side as well, whose Pong is to be given: [`Keepalive::missing`].
    Proxy { sent: Option<Tick>, missing: bool },
    /// It was already given in this side's name.
    Given,
    /// The other side's.
    Peer,
}

impl Owner {
    /// The proxy's, answering none of its Pings any more.
    const STRAY: Self = Self::Proxy { sent: None, missing: false };
}

impl Keepalive {
    pub(super) fn new(tag: u32) -> Self {
        Self {
            last_ping: Tick::ZERO,
            foreign: None,
            tag,
            sent: 0,
            answered: 0,
            awaiting: false,
            answers_badly: false,
            queued_ping: false,
            queued_pong: false,
        }
    }

    /// When the next Ping is due, if the side stays silent.
    pub(super) fn due(&self, last_seen: Tick, interval: Duration, timeout: Duration) -> Tick {
        let due = last_seen.max(self.last_ping) + self.less_a_random_tenth(interval);
        match &self.foreign {
            // A peer may answer only the latest of several Pings (RFC 6455 5.5.3), so one of ours
            // could swallow the Pong the other side waits for. A Ping that found no answer for
            // as long as ours would have is waited for no longer, however many follow it.
            Some(foreign) if !foreign.answered => due.max(foreign.unanswered_since + timeout),
            _ => due,
        }
    }

    /// When the side is dead, if no byte comes. `free_since` is when the last bytes that waited
    /// went out: for this side, as a Ping behind them could not be answered before; for the other,
    /// as no answer was read before.
    pub(super) fn dead_at(&self, free_since: Tick, timeout: Duration) -> Option<Tick> {
        self.awaiting.then(|| self.last_ping.max(free_since) + timeout)
    }

    /// A Ping of the proxy is out and no byte has come since.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaiting
    }

    /// A byte came from this side; whether one was awaited.
    pub(super) fn heard(&mut self) -> bool {
        std::mem::replace(&mut self.awaiting, false)
    }

    /// The payload of the next Ping, which is sent now.
    pub(super) fn ping(&mut self, now: Tick) -> [u8; PAYLOAD] {
        self.sent = self.sent.saturating_add(1);
        self.last_ping = now;
        self.awaiting = true;
        self.payload(self.sent)
    }

    /// A Ping of the other side passed to this one.
    pub(super) fn foreign_ping(&mut self, payload: &[u8], now: Tick) {
        let foreign = self.foreign.get_or_insert_with(|| {
            Box::new(Foreign {
                payload: Vec::new(),
                unanswered_since: now,
                behind: 0,
                earlier: 0,
                answered: true,
            })
        });
        foreign.payload.clear();
        foreign.payload.extend_from_slice(payload);
        if foreign.answered {
            (foreign.unanswered_since, foreign.earlier) = (now, 0);
        } else {
            foreign.earlier = foreign.earlier.saturating_add(1);
        }
        (foreign.behind, foreign.answered) = (self.sent, false);
    }

    /// A Pong came from this side. `goes_on`: it may be the rest of one that broke a rule.
    pub(super) fn pong(&mut self, payload: &[u8], goes_on: bool) -> Owner {
        if let Some(number) = self.recognise(payload) {
            return self.answer(number);
        }
        match self.foreign.take_if(|foreign| foreign.payload == payload) {
            Some(foreign) if foreign.answered => Owner::Given,
            Some(_) => Owner::Peer,
            None if goes_on => Owner::STRAY,
            // It may well be the answer to one before the latest.
            None if self.take_earlier() => Owner::Peer,
            // Which Ping it is meant for cannot be told. To the other side it would be an answer that it
            // did not ask for.
            None if self.is_unanswered() => self.answer_badly(),
            None => Owner::Peer,
        }
    }

    /// A Pong came that breaks a rule of framing. `None`: it answers no Ping of the proxy's, so the breach
    /// is the other side's to judge.
    pub(super) fn bad_pong(&mut self, payload: &[u8]) -> Option<Owner> {
        if let Some(number) = self.recognise(payload) {
            self.answers_badly = true;
            return Some(self.answer(number));
        }
        if !self.is_unanswered() && !self.answers_badly {
            return None;
        }
        let is_answered = !self.is_unanswered();
        self.answers_badly = true;
        // The other side's Ping is answered in good form.
        match self.foreign.as_mut().filter(|foreign| !foreign.answered) {
            Some(foreign) if is_answered || foreign.payload == payload => {
                foreign.answered = true;
                Some(Owner::Proxy { sent: None, missing: true })
            }
            _ if is_answered => Some(Owner::STRAY),
            _ => Some(self.answer_badly()),
        }
    }

    /// A Ping came from this side: one of the proxy's that is sent back as it is.
    pub(super) fn echo(&mut self, payload: &[u8]) -> Option<Owner> {
        let number = self.recognise(payload)?;
        self.answers_badly = true;
        Some(self.answer(number))
    }

    /// Whether this side was found to answer Pings otherwise than it should.
    pub(super) fn answers_badly(&self) -> bool {
        self.answers_badly
    }

    /// Whether the other side awaits a Pong to an earlier Ping than its latest; each counts once.
    fn take_earlier(&mut self) -> bool {
        let foreign = self.foreign.as_mut().filter(|foreign| foreign.earlier > 0);
        foreign.map(|foreign| foreign.earlier -= 1).is_some()
    }

    fn is_unanswered(&self) -> bool {
        self.answered < self.sent
    }

    /// The oldest Ping that is unanswered was answered in a way that does not tell which it was.
    fn answer_badly(&mut self) -> Owner {
        self.answers_badly = true;
        let is_latest = self.answered + 1 == self.sent;
        let missing = self.skipped(self.sent);
        self.answered += 1;
        Owner::Proxy { sent: is_latest.then_some(self.last_ping), missing }
    }

    /// The proxy's Ping of this number was answered, and so were those before it.
    fn answer(&mut self, number: u32) -> Owner {
        let is_first = number == self.sent && self.is_unanswered();
        let missing = self.skipped(number);
        self.answered = self.answered.max(number);
        Owner::Proxy { sent: is_first.then_some(self.last_ping), missing }
    }

    /// Whether this side has skipped the other side's Ping by answering the proxy's Ping of that
    /// number. One that went out behind ours is still to be answered: giving its
    /// Pong now would overtake the answers to those before it.
    fn skipped(&mut self, number: u32) -> bool {
        let foreign = self.foreign.as_mut().filter(|foreign| !foreign.answered && foreign.behind < number);
        foreign.is_some_and(|foreign| !std::mem::replace(&mut foreign.answered, true))
    }

    /// The payload of the other side's Ping that was skipped last, until the next one comes.
    pub(super) fn missing(&self) -> &[u8] {
        self.foreign.as_ref().map_or(&[], |foreign| &foreign.payload)
    }

    /// Which Ping of the proxy's has this payload. A second answer to the same Ping is known as well:
    /// nobody else may see it.
    fn recognise(&self, payload: &[u8]) -> Option<u32> {
        let (tag, number) = payload.split_first_chunk::<4>()?;
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let is_known = (1..=self.sent).contains(&number) && *tag == self.tag.to_be_bytes();
        is_known.then_some(number)
    }

    fn payload(&self, number: u32) -> [u8; PAYLOAD] {
        let mut payload = [0; PAYLOAD];
        payload[..4].copy_from_slice(&self.tag.to_be_bytes());
        payload[4..].copy_from_slice(&number.to_be_bytes());
        payload
    }

    /// Connections that opened together would ping together for ever; the tag spreads them.
    fn less_a_random_tenth(&self, interval: Duration) -> Duration {
        let interval = interval.max(SHORTEST);
        let spread = (self.tag ^ self.sent).wrapping_mul(0x9e37_79b9) >> 16;
        interval - interval * spread / (10 * 0x1_0000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(25);
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> Tick {
        Tick::after(Duration::from_secs(seconds))
    }

    #[test]
    fn the_interval_loses_a_tenth_at_most() {
        for tag in (0..u32::MAX).step_by(0x10_0001) {
            let due = Keepalive::new(tag).due(at(0), INTERVAL, TIMEOUT).elapsed();
            assert!(due <= INTERVAL && due > INTERVAL * 9 / 10, "{due:?}");
        }
    }

    #[test]
    fn a_pong_of_ours_is_recognised_once() {
        let mut pings = Keepalive::new(7);
        let payload = pings.ping(at(25));
        assert_eq!(pings.dead_at(at(0), TIMEOUT), Some(at(45)));
        assert_eq!(pings.pong(&payload, false), Owner::Proxy { sent: Some(at(25)), missing: false });
        assert_eq!(
            pings.pong(&payload, false),
            Owner::Proxy { sent: None, missing: false },
            "nobody else may see it"
        );
        assert_eq!(pings.pong(&[], false), Owner::Peer);
    }

    #[test]
    fn one_pong_may_answer_several_pings() {
        let mut pings = Keepalive::new(7);
        let first = pings.ping(at(25));
        let second = pings.ping(at(50));
        assert_eq!(pings.pong(&second, false), Owner::Proxy { sent: Some(at(50)), missing: false });
        assert_eq!(pings.pong(&first, false), Owner::Proxy { sent: None, missing: false });
    }

    #[test]
    fn a_foreign_ping_holds_ours_back_for_a_while() {
        let mut pings = Keepalive::new(7);
        pings.foreign_ping(b"app", at(24));
        assert_eq!(pings.due(at(0), INTERVAL, TIMEOUT), at(44));
        assert_eq!(pings.pong(b"app", false), Owner::Peer);
        assert!(pings.due(at(0), INTERVAL, TIMEOUT) <= at(25));
    }

    #[test]
    fn a_pong_swallowed_by_ours_is_given_once() {
        let mut pings = Keepalive::new(7);
        pings.foreign_ping(b"app", at(4));
        let ours = pings.ping(at(25));
        assert_eq!(pings.pong(&ours, false), Owner::Proxy { sent: Some(at(25)), missing: true });
        assert_eq!(pings.missing(), b"app");
        assert_eq!(pings.pong(b"app", false), Owner::Given);
        assert_eq!(pings.pong(b"app", false), Owner::Peer);
    }

    #[test]
    fn what_was_asked_behind_ours_is_answered_behind_ours() {
        let mut pings = Keepalive::new(7);
        let ours = pings.ping(at(25));
        pings.foreign_ping(b"app", at(26));
        assert_eq!(pings.pong(&ours, false), Owner::Proxy { sent: Some(at(25)), missing: false });
        assert_eq!(pings.pong(b"app", false), Owner::Peer);
    }
}
