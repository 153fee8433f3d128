//! Owns the table of known idle limits of hops between clients and servers. It must not know who was silent.

use std::time::Duration;

/// Idle limits of hops between clients and servers, in seconds, by their makers' documentation. Those "by
/// reports" come from users' experience only. A match proves nothing.
pub(crate) const LIMITS: [(u32, &str); 15] = [
    (30, "HAProxy timeout client/server (common value)"),
    (30, "GCP external Application Load Balancer"),
    (55, "Heroku router"),
    (60, "nginx proxy_read_timeout"),
    (60, "AWS Application Load Balancer"),
    (100, "Cloudflare (by reports)"),
    (100, "YARP activity timeout"),
    (230, "Azure App Service (by reports)"),
    (240, "Azure Load Balancer"),
    (300, "Envoy stream_idle_timeout"),
    (300, "Azure Front Door"),
    (300, "OCI Load Balancer"),
    (350, "AWS Network Load Balancer"),
    (600, "CloudFront, AWS API Gateway, GCP HTTP keep-alive"),
    (900, "firewalls and NAT (300 to 900)"),
];

/// Returns the known idle limit that would explain this silence, in whole seconds. The silence includes the
/// moment until the end was noticed.
#[must_use]
pub(crate) fn limit_of(silence: Duration) -> Option<u32> {
    let silence = silence.as_secs_f64();
    let fits = |limit: f64| silence >= limit && silence <= limit + f64::max(LEAST_NOTICE, limit * NOTICE);
    LIMITS.iter().map(|(seconds, _)| *seconds).find(|&seconds| fits(f64::from(seconds)))
}

/// Timers of other proxies are coarse: nginx and HAProxy fire within milliseconds, clouds within a second or
/// two. The tolerance is a share of the limit, with a minimum in seconds. It is smaller than the gap to the
/// next limit.
const NOTICE: f64 = 0.01;
const LEAST_NOTICE: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::tally::SILENCE_EDGES;

    #[test]
    fn a_silence_is_explained_by_a_limit_just_below_it() {
        let explained = |millis| limit_of(Duration::from_millis(millis));
        assert_eq!(explained(59_999), None);
        assert_eq!(explained(60_000), Some(60));
        assert_eq!(explained(61_900), Some(60));
        assert_eq!(explained(62_100), None);
        assert_eq!(explained(905_000), Some(900));
        assert_eq!(explained(0), None);
    }

    #[test]
    fn each_known_limit_is_an_edge() {
        assert!(LIMITS.iter().all(|(seconds, _)| SILENCE_EDGES.contains(&f64::from(*seconds))));
        assert!(SILENCE_EDGES.iter().all(|edge| LIMITS.iter().any(|(s, _)| f64::from(*s) == *edge)));
    }
}
