//! Owns the Pings of one side: when the next is due, which Ping a Pong answers, and when silence means a dead peer.

use crate::tunnel::timer::TunnelTime;
use std::time::Duration;

/// Tag and sequence number of an injected Ping.
const PAYLOAD: usize = 8;

/// The shortest interval. With one below a microsecond, the next Ping would always be due.
const SHORTEST: Duration = Duration::from_millis(1);

/// The Pings to one side, from Holdline and from the other side.
#[derive(Debug)]
pub(super) struct Keepalive {
    /// When Holdline sent its last Ping. Before the first, when the tunnel opened.
    last_ping: TunnelTime,
    /// The latest Ping of the *other side* that was forwarded and is not answered yet.
    peer_ping: Option<Box<PeerPing>>,
    /// Marks Holdline's Pings to this side. No peer knows it before the first Ping.
    tag: u32,
    sent: u32,
    /// Pings up to this number are answered.
    answered: u32,
    /// Holdline has sent a Ping, and no byte has come since.
    awaiting: bool,
    /// This side has answered a Ping against RFC 6455 5.5.3.
    answers_badly: bool,
    /// A Ping waits for the next frame boundary.
    pub(super) queued_ping: bool,
    /// A Pong that the other side's [`Keepalive`] found missing waits for it too.
    pub(super) queued_pong: bool,
}

#[derive(Debug)]
struct PeerPing {
    payload: Vec<u8>,
    /// When the first of the unanswered Pings was forwarded.
    unanswered_since: TunnelTime,
    /// How many Pings Holdline had sent before it.
    behind: u32,
    /// How many unanswered Pings of the other side were forwarded before it.
    earlier: u32,
    /// Whether Holdline has answered it in this side's name.
    answered: bool,
}

/// Which Ping a Pong answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// One of Holdline's, sent at `sent`. The Pong is not forwarded. `missing` means that this side skipped a Ping of
    /// the other side with it, so Holdline must send that Pong itself: see [`Keepalive::missing`].
    Proxy { sent: Option<TunnelTime>, missing: bool },
    /// One that Holdline has answered in this side's name.
    Given,
    /// One of the other side, or none that is known.
    Peer,
}

impl Owner {
    /// A Pong to Holdline that answers no open Ping.
    const STRAY: Self = Self::Proxy { sent: None, missing: false };
}

impl Keepalive {
    pub(super) fn new(tag: u32) -> Self {
        Self {
            last_ping: TunnelTime::ZERO,
            peer_ping: None,
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
    pub(super) fn due(&self, last_seen: TunnelTime, interval: Duration, timeout: Duration) -> TunnelTime {
        let due = last_seen.max(self.last_ping) + self.less_a_random_tenth(interval);
        match &self.peer_ping {
            // A peer may answer only the latest of several Pings (RFC 6455 5.5.3), so one of Holdline's could replace
            // the Pong that the other side waits for. Holdline waits for that Pong as long as for one to itself.
            Some(peer_ping) if !peer_ping.answered => due.max(peer_ping.unanswered_since + timeout),
            _ => due,
        }
    }

    /// When the side counts as dead if no byte comes. `free_since` is when the last waiting bytes went out, to either
    /// side. Before that, the Ping could not reach this side, or its answer could not be read.
    pub(super) fn dead_at(&self, free_since: TunnelTime, timeout: Duration) -> Option<TunnelTime> {
        self.awaiting.then(|| self.last_ping.max(free_since) + timeout)
    }

    /// Whether Holdline has sent a Ping, and no byte has come since.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaiting
    }

    /// Records that a byte came from this side. Returns whether a Ping awaited one.
    pub(super) fn on_byte(&mut self) -> bool {
        std::mem::replace(&mut self.awaiting, false)
    }

    /// Returns the payload of the next Ping, which the caller sends now.
    pub(super) fn ping(&mut self, now: TunnelTime) -> [u8; PAYLOAD] {
        self.sent = self.sent.saturating_add(1);
        self.last_ping = now;
        self.awaiting = true;
        self.payload(self.sent)
    }

    /// A Ping of the other side passed to this one.
    pub(super) fn on_peer_ping(&mut self, payload: &[u8], now: TunnelTime) {
        let peer_ping = self.peer_ping.get_or_insert_with(|| {
            Box::new(PeerPing {
                payload: Vec::new(),
                unanswered_since: now,
                behind: 0,
                earlier: 0,
                answered: true,
            })
        });
        peer_ping.payload.clear();
        peer_ping.payload.extend_from_slice(payload);
        if peer_ping.answered {
            (peer_ping.unanswered_since, peer_ping.earlier) = (now, 0);
        } else {
            peer_ping.earlier = peer_ping.earlier.saturating_add(1);
        }
        (peer_ping.behind, peer_ping.answered) = (self.sent, false);
    }

    /// Handles a Pong from this side. `goes_on` means that it may be the rest of one that broke a rule.
    pub(super) fn pong(&mut self, payload: &[u8], goes_on: bool) -> Owner {
        if let Some(number) = self.recognise(payload) {
            return self.answer(number);
        }
        match self.peer_ping.take_if(|peer_ping| peer_ping.payload == payload) {
            Some(peer_ping) if peer_ping.answered => Owner::Given,
            Some(_) => Owner::Peer,
            None if goes_on => Owner::STRAY,
            // It may answer an earlier Ping than the latest.
            None if self.take_earlier() => Owner::Peer,
            // Nobody can tell which Ping it answers. The other side has not asked for it.
            None if self.is_unanswered() => self.answer_badly(),
            None => Owner::Peer,
        }
    }

    /// Handles a Pong that breaks a rule of framing. `None` means that it answers none of Holdline's Pings, so it
    /// counts as any breach of framing.
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
        // Holdline answers the other side's Ping with a valid Pong.
        match self.peer_ping.as_mut().filter(|peer_ping| !peer_ping.answered) {
            Some(peer_ping) if is_answered || peer_ping.payload == payload => {
                peer_ping.answered = true;
                Some(Owner::Proxy { sent: None, missing: true })
            }
            _ if is_answered => Some(Owner::STRAY),
            _ => Some(self.answer_badly()),
        }
    }

    /// Handles a Ping from this side. `None` means that it is not one of Holdline's, sent back.
    pub(super) fn echo(&mut self, payload: &[u8]) -> Option<Owner> {
        let number = self.recognise(payload)?;
        self.answers_badly = true;
        Some(self.answer(number))
    }

    /// Whether this side has answered a Ping against RFC 6455 5.5.3.
    pub(super) fn answers_badly(&self) -> bool {
        self.answers_badly
    }

    /// Takes one earlier Ping of the other side that awaits a Pong. Returns whether there was one.
    fn take_earlier(&mut self) -> bool {
        let peer_ping = self.peer_ping.as_mut().filter(|peer_ping| peer_ping.earlier > 0);
        peer_ping.map(|peer_ping| peer_ping.earlier -= 1).is_some()
    }

    fn is_unanswered(&self) -> bool {
        self.answered < self.sent
    }

    /// Counts the oldest open Ping as answered, because the Pong does not show which one it answers.
    fn answer_badly(&mut self) -> Owner {
        self.answers_badly = true;
        let is_latest = self.answered + 1 == self.sent;
        let missing = self.skipped(self.sent);
        self.answered += 1;
        Owner::Proxy { sent: is_latest.then_some(self.last_ping), missing }
    }

    /// Counts Holdline's Pings up to this number as answered.
    fn answer(&mut self, number: u32) -> Owner {
        let is_first = number == self.sent && self.is_unanswered();
        let missing = self.skipped(number);
        self.answered = self.answered.max(number);
        Owner::Proxy { sent: is_first.then_some(self.last_ping), missing }
    }

    /// Whether this side skipped the other side's Ping when it answered Holdline's Ping of that number. A Ping that was
    /// sent after ours is not skipped yet. A Pong to it now would overtake the answers to earlier ones.
    fn skipped(&mut self, number: u32) -> bool {
        let peer_ping =
            self.peer_ping.as_mut().filter(|peer_ping| !peer_ping.answered && peer_ping.behind < number);
        peer_ping.is_some_and(|peer_ping| !std::mem::replace(&mut peer_ping.answered, true))
    }

    /// The payload of the other side's last skipped Ping, until its next Ping comes.
    pub(super) fn missing(&self) -> &[u8] {
        self.peer_ping.as_ref().map_or(&[], |peer_ping| &peer_ping.payload)
    }

    /// The number of Holdline's Ping with this payload. It also recognises a second answer to the same Ping, because no
    /// peer may see that.
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

    /// Shortens the interval by up to a tenth, depending on the tag. Otherwise tunnels that opened together would
    /// send all their Pings together.
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

    fn at(seconds: u64) -> TunnelTime {
        TunnelTime::after(Duration::from_secs(seconds))
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
        pings.on_peer_ping(b"app", at(24));
        assert_eq!(pings.due(at(0), INTERVAL, TIMEOUT), at(44));
        assert_eq!(pings.pong(b"app", false), Owner::Peer);
        assert!(pings.due(at(0), INTERVAL, TIMEOUT) <= at(25));
    }

    #[test]
    fn a_pong_swallowed_by_ours_is_given_once() {
        let mut pings = Keepalive::new(7);
        pings.on_peer_ping(b"app", at(4));
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
        pings.on_peer_ping(b"app", at(26));
        assert_eq!(pings.pong(&ours, false), Owner::Proxy { sent: Some(at(25)), missing: false });
        assert_eq!(pings.pong(b"app", false), Owner::Peer);
    }
}
