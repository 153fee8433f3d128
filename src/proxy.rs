//! Owns the request path: from a request to its route, to an endpoint, to an answer or a tunnel.

pub mod snapshot;
