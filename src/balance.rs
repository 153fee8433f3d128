//! Owns the choice among candidates. It must not know addresses, or which endpoints are candidates.

use siphasher::sip::SipHasher13;
use std::cmp::Ordering;
use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;

/// How an endpoint is chosen for a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// The endpoint with the fewest open connections for its weight. Round robin decides among equals (nginx
    /// `least_conn`).
    LeastConn,
    /// By the client's address: the first three octets of IPv4, or all of IPv6 (nginx `ip_hash`).
    IpHash,
    /// In turn, by smooth weighted round robin.
    RoundRobin,
    /// The less loaded of two random endpoints (nginx `random two least_conn`).
    RandomTwo,
    /// By a hash of a part of the request.
    Hash(Source),
}

/// The part of a request that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A header's value.
    Header(http::HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// A query parameter's value.
    Query(String),
    /// The path.
    Path,
}

/// As the configuration writes it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Path => f.write_str("path"),
        }
    }
}

/// An endpoint that may be chosen, and what the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its id, the same in every proxy with the same list.
    pub id: u64,
    /// Its share, above 0, in any unit that all candidates share.
    pub weight: u32,
    /// Its connections, also those that are being opened.
    pub active: u32,
    /// Its state in the round robin, kept between choices.
    pub turn: i64,
}

/// Chooses a candidate and advances the round robin. If a request has no key, methods that need one choose the
/// least loaded. `draw` returns a random number below its argument.
pub fn pick(
    method: &Method,
    candidates: &mut [Candidate],
    key: Option<u64>,
    mut draw: impl FnMut(u64) -> u64,
) -> Option<usize> {
    if candidates.len() < 2 {
        return candidates.len().checked_sub(1);
    }
    match (method, key) {
        (Method::RoundRobin, _) => Some(next_turn(candidates, |_| true)),
        (Method::RandomTwo, _) => {
            let first = draw_weighted(candidates, None, &mut draw);
            let second = draw_weighted(candidates, Some(first), &mut draw);
            Some(if by_load(&candidates[second], &candidates[first]).is_lt() { second } else { first })
        }
        (Method::IpHash | Method::Hash(_), Some(key)) => highest(candidates, key),
        _ => {
            let least = *candidates.iter().min_by(|a, b| by_load(a, b))?;
            Some(next_turn(candidates, |candidate| by_load(candidate, &least).is_eq()))
        }
    }
}

/// Compares loads as they would be with one more connection. Otherwise a new endpoint with the small weight of
/// `slow_start` would be the least loaded each time.
fn by_load(a: &Candidate, b: &Candidate) -> Ordering {
    let after = |candidate: &Candidate| u128::from(candidate.active) + 1;
    (after(a) * u128::from(b.weight)).cmp(&(after(b) * u128::from(a.weight)))
}

/// Does smooth weighted round robin among those that take part: each gains its weight, and the one with the
/// highest sum is chosen and pays the total.
fn next_turn(candidates: &mut [Candidate], takes_part: impl Fn(&Candidate) -> bool) -> usize {
    let (mut chosen, mut total) = (None::<usize>, 0);
    for index in 0..candidates.len() {
        if !takes_part(&candidates[index]) {
            continue;
        }
        let weight = i64::from(candidates[index].weight);
        candidates[index].turn += weight;
        total += weight;
        if chosen.is_none_or(|best| candidates[index].turn > candidates[best].turn) {
            chosen = Some(index);
        }
    }
    let chosen = chosen.unwrap_or(0);
    candidates[chosen].turn -= total;
    chosen
}

fn draw_weighted(
    candidates: &[Candidate],
    except: Option<usize>,
    draw: &mut impl FnMut(u64) -> u64,
) -> usize {
    let open = || candidates.iter().enumerate().filter(|&(index, _)| Some(index) != except);
    let total = open().map(|(_, candidate)| u64::from(candidate.weight)).sum();
    let mut left = draw(total);
    for (index, candidate) in open() {
        let weight = u64::from(candidate.weight);
        if left < weight {
            return index;
        }
        left -= weight;
    }
    0
}

/// Does weighted rendezvous hashing. Each candidate has its own score, so a candidate that is added or removed
/// moves only its own keys (Thaler, Ravishankar 1998; weights after Schindelhauer, Schomaker 2005).
fn highest(candidates: &[Candidate], key: u64) -> Option<usize> {
    let score = |candidate: &Candidate| {
        let mut hasher = SipHasher13::new();
        hasher.write_u64(key);
        hasher.write_u64(candidate.id);
        // 53 bits between 0 and 1, without both: the logarithm is finite and negative.
        let fraction = ((hasher.finish() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(candidate.weight) / fraction.ln()
    };
    let scores = candidates.iter().map(score).enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// Returns the hash of a key, the same in every proxy.
#[must_use]
pub fn key_of(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Returns the key of a client's address.
#[must_use]
pub(crate) fn key_of_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(v4) => key_of(&v4.octets()[..3]),
        IpAddr::V6(v6) => key_of(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let each = weights.iter().enumerate();
        each.map(|(id, &weight)| Candidate { id: key_of(&[id as u8]), weight, active: 0, turn: 0 }).collect()
    }

    fn no_draw(_: u64) -> u64 {
        unreachable!("this method draws nothing")
    }

    #[test]
    fn round_robin_is_smooth() {
        let mut all = candidates(&[5, 1, 1]);
        let picks: Vec<_> =
            (0..7).map(|_| pick(&Method::RoundRobin, &mut all, None, no_draw).unwrap()).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn least_conn_follows_weights_and_breaks_ties_in_turn() {
        let mut all = candidates(&[2, 1, 1]);
        for _ in 0..40 {
            let chosen = pick(&Method::LeastConn, &mut all, None, no_draw).unwrap();
            all[chosen].active += 1;
        }
        let shares: Vec<_> = all.iter().map(|candidate| candidate.active).collect();
        assert_eq!(shares, [20, 10, 10]);
        let mut even = candidates(&[1, 1]);
        let picks: Vec<_> =
            (0..4).map(|_| pick(&Method::LeastConn, &mut even, None, no_draw).unwrap()).collect();
        assert_eq!(picks, [0, 1, 0, 1], "nobody is preferred for standing first");
    }

    #[test]
    fn a_newcomer_with_a_hundredth_of_the_weight_is_not_flooded() {
        let mut all = candidates(&[1000, 1000, 10]);
        (all[0].active, all[1].active) = (100, 100);
        for _ in 0..20 {
            let chosen = pick(&Method::LeastConn, &mut all, None, no_draw).unwrap();
            all[chosen].active += 1;
        }
        assert!(all[2].active <= 2, "{}", all[2].active);
    }

    #[test]
    fn random_two_takes_the_less_loaded() {
        let mut all = candidates(&[1, 1, 1]);
        all[0].active = 9;
        let mut draws = [0, 0].into_iter();
        assert_eq!(pick(&Method::RandomTwo, &mut all, None, |_| draws.next().unwrap()), Some(1));
    }

    #[test]
    fn clients_of_one_network_share_a_key() {
        let key = |ip: &str| key_of_ip(ip.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("192.0.2.200"));
        assert_ne!(key("192.0.2.1"), key("192.0.3.1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8::2"));
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        // Proxies of different versions stand side by side during a roll-out.
        assert_eq!(key_of(b"room-1"), 6_091_572_969_054_040_449);
    }

    proptest! {
        #[test]
        fn a_lost_candidate_moves_only_its_own_keys(key: u64, lost in 0..5_usize) {
            let mut all = candidates(&[1, 2, 1, 3, 1]);
            let before = pick(&Method::IpHash, &mut all, Some(key), no_draw).unwrap();
            let id = all[before].id;
            all.remove(lost);
            let after = pick(&Method::IpHash, &mut all, Some(key), no_draw).unwrap();
            prop_assert!(before == lost || all[after].id == id);
        }
    }

    #[test]
    fn hashing_honours_weights() {
        let mut all = candidates(&[1, 3]);
        let second = (0..10_000_u64).filter(|key| {
            pick(&Method::IpHash, &mut all, Some(key_of(&key.to_be_bytes())), no_draw) == Some(1)
        });
        let share = second.count();
        assert!((7_300..7_700).contains(&share), "{share} of 10,000 for a weight of 3 in 4");
    }
}
