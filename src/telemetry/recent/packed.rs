//! Owns the packed form of an end: its numbers and texts in few bytes, and references to what it shares with others.

use crate::addr::EndpointAddr;
use crate::outcome::{Cause, EndedBy, Ending, Outcome, PerSide, Side, Traffic};
use crate::telemetry::report::{ConnectionId, Ended, Report, RouteNames};
use crate::ws::close::CloseCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An end in few bytes. It keeps only whether the version of HTTP was 2, and times to the microsecond, as they are
/// shown.
#[derive(Debug)]
pub(in crate::telemetry) struct Packed {
    pub(super) names: Option<Arc<RouteNames>>,
    pub(super) endpoint: Option<Arc<EndpointAddr>>,
    pub(super) blind: Option<&'static str>,
    pub(super) bytes: Vec<u8>,
}

impl Packed {
    /// Packs an end.
    #[must_use]
    pub(in crate::telemetry) fn of(Ended { report, outcome }: &Ended) -> Self {
        let Outcome { ending, traffic, duration, idle, blind, ended } = outcome;
        let mut bytes = Vec::with_capacity(128 + report.packed_text().len() + ending.reason.len());
        bytes.extend_from_slice(&report.id.0.to_le_bytes());
        put_text(&mut bytes, report.packed_text());
        put_text(&mut bytes, ending.reason.as_bytes());
        bytes.extend([ending.ended_by as u8, ending.cause as u8, u8::from(report.protocol() == "h2")]);
        let time = SystemTime::from(report.started);
        put_option(&mut bytes, since_1970(time));
        put_option(&mut bytes, ended.and_then(since_1970));
        put_option(&mut bytes, ending.code.map(|code| code.0.into()));
        for number in [report.tries.into(), report.status.into(), micros(*duration)] {
            put(&mut bytes, number);
        }
        for side in Side::BOTH {
            let Traffic { bytes: received, messages, pings, pongs, last_rtt, worst_rtt } = traffic[side];
            for number in [received, messages, pings.into(), pongs.into(), micros(idle[side])] {
                put(&mut bytes, number);
            }
            put_option(&mut bytes, last_rtt.map(micros));
            put_option(&mut bytes, worst_rtt.map(micros));
        }
        let (names, endpoint) = (report.names.clone(), report.endpoint.clone());
        Self { names, endpoint, blind: *blind, bytes }
    }
}

/// Unpacks an end. `None` means that the bytes are not a packed end.
pub(super) fn unpack(
    bytes: &[u8],
    names: Option<Arc<RouteNames>>,
    endpoint: Option<Arc<EndpointAddr>>,
    blind: Option<&'static str>,
) -> Option<Ended> {
    let (id, mut rest) = bytes.split_first_chunk()?;
    let (texts, reason) = (take_text(&mut rest)?, take_text(&mut rest)?);
    let ([ended_by, cause, is_h2], after) = rest.split_first_chunk()?;
    rest = after;
    let (time, ended) = (take_option(&mut rest)?, take_option(&mut rest)?);
    let code = take_option(&mut rest)?.and_then(|code| u16::try_from(code).ok()).map(CloseCode);
    let (tries, status) = (take_as(&mut rest)?, take_as(&mut rest)?);
    let duration = Duration::from_micros(take(&mut rest)?);
    let (mut traffic, mut idle) = (PerSide::<Traffic>::default(), PerSide::default());
    for side in Side::BOTH {
        let (received, messages) = (take(&mut rest)?, take(&mut rest)?);
        let (pings, pongs) = (take_as(&mut rest)?, take_as(&mut rest)?);
        idle[side] = Duration::from_micros(take(&mut rest)?);
        let last_rtt = take_option(&mut rest)?.map(Duration::from_micros);
        let worst_rtt = take_option(&mut rest)?.map(Duration::from_micros);
        traffic[side] = Traffic { bytes: received, messages, pings, pongs, last_rtt, worst_rtt };
    }
    let moment = |micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
    let id = ConnectionId(u64::from_le_bytes(*id));
    let mut report = Report::of_texts(id, moment(time.unwrap_or(0)), texts);
    (report.names, report.endpoint) = (names, endpoint);
    (report.tries, report.status) = (tries, status);
    if *is_h2 == 1 {
        report.version = http::Version::HTTP_2;
    }
    let (ended_by, cause) =
        (*EndedBy::ALL.get(usize::from(*ended_by))?, *Cause::ALL.get(usize::from(*cause))?);
    let ending = Ending { ended_by, cause, code, reason: std::str::from_utf8(reason).ok()?.into() };
    let ended = ended.map(moment);
    Some(Ended { report, outcome: Outcome { ending, traffic, duration, idle, blind, ended } })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn since_1970(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(micros)
}

/// LEB128: seven bits a byte, the lowest first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take_as<T: TryFrom<u64>>(bytes: &mut &[u8]) -> Option<T> {
    T::try_from(take(bytes)?).ok()
}

/// Writes 0 for `None`, and a number as one more than it is.
fn put_option(bytes: &mut Vec<u8>, number: Option<u64>) {
    put(bytes, number.map_or(0, |number| number.saturating_add(1)));
}

fn take_option(bytes: &mut &[u8]) -> Option<Option<u64>> {
    take(bytes).map(|number| number.checked_sub(1))
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_as(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::addr::ClientAddr;
    use crate::telemetry::report::RequestInfo;
    use proptest::prelude::*;

    /// The end of a tunnel, as most are.
    pub(in crate::telemetry::recent) fn end(number: u64, target: &str) -> Ended {
        let client = ClientAddr::Tcp("203.0.113.77:50000".parse().unwrap());
        let (method, host, target) = ("GET", &b"chat.example.com"[..], target.as_bytes());
        let asked = RequestInfo { client, proxied_by: None, method, host, target, tls: Some("TLSv1.3") };
        let time =
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_858_800) + Duration::from_micros(number);
        let mut report = Report::new(ConnectionId(number), time, &asked);
        (report.tries, report.status) = (1, 101);
        let traffic = Traffic {
            bytes: 123_456,
            messages: 2_345,
            pings: 120,
            pongs: 119,
            last_rtt: Some(Duration::from_micros(23_456)),
            worst_rtt: Some(Duration::from_micros(123_456)),
        };
        let silence = Duration::from_micros(12_345_678);
        let outcome = Outcome {
            ending: Ending { code: Some(CloseCode(1001)), ..Ending::new(EndedBy::Client, Cause::Close) },
            traffic: PerSide { client: traffic, upstream: traffic },
            duration: Duration::from_micros(3_600_123_456),
            idle: PerSide { client: silence, upstream: silence },
            blind: None,
            ended: Some(time + Duration::from_secs(3600)),
        };
        Ended { report, outcome }
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(
            numbers: (u64, u64, u64, u32, u32, u16, u64),
            times in prop::array::uniform6(0..u64::MAX / 4),
            rtt in prop::option::of(0..u64::MAX / 4),
            code: Option<u16>,
            reason: String,
            (ended_by, cause) in (0..EndedBy::ALL.len(), 0..Cause::ALL.len()),
            is_h2: bool,
            shares: bool,
        ) {
            let (id, bytes, messages, pings, tries, status, more) = numbers;
            let moment = |micros: u64| SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
            let time = Duration::from_micros;
            let Ended { mut report, mut outcome } = end(id, "/\u{fc}?a");
            report.started = moment(times[0]).into();
            (report.tries, report.status) = (tries, status);
            if is_h2 {
                report.version = http::Version::HTTP_2;
            }
            if shares {
                report.names = Some(Arc::new(RouteNames::new("r".into(), None)));
                report.endpoint = Some(Arc::new(EndpointAddr::Tcp("10.0.0.1:80".parse().unwrap())));
                outcome.blind = Some("another protocol");
            }
            let (ended_by, cause) = (EndedBy::ALL[ended_by], Cause::ALL[cause]);
            outcome.ending = Ending { ended_by, cause, code: code.map(CloseCode), reason: reason.into() };
            outcome.traffic.upstream = Traffic {
                bytes,
                messages,
                pings,
                pongs: pings / 2,
                last_rtt: rtt.map(time),
                worst_rtt: rtt.map(|rtt| time(rtt * 2)),
            };
            outcome.traffic.client.bytes = more;
            outcome.idle = PerSide { client: time(times[1]), upstream: time(times[2]) };
            outcome.duration = time(times[3]);
            outcome.ended = (times[4] % 3 > 0).then(|| moment(times[5]));
            let before = Ended { report, outcome };
            let Packed { names, endpoint, blind, bytes } = Packed::of(&before);
            let after = unpack(&bytes, names.clone(), endpoint.clone(), blind).unwrap();
            prop_assert_eq!(format!("{:?}", after.report), format!("{:?}", before.report));
            prop_assert_eq!(&after.outcome, &before.outcome);
            for length in 0..bytes.len() {
                // Nothing panics.
                let _ = unpack(&bytes[..length], names.clone(), None, blind);
            }
        }
    }
}
