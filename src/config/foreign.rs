//! Owns what users of nginx and HAProxy write by habit, and what to write instead. It must not know how a
//! setting is read.

/// What to write instead of a directive of another proxy.
pub(super) fn word(key: &str) -> Option<String> {
    let lower = key.to_ascii_lowercase().replace('-', "_");
    let of = |proxy: &str, words: &[(&str, &str)]| {
        let found = words.iter().find(|(word, _)| *word == lower)?;
        Some(format!("`{key}` of {proxy}: {}", found.1))
    };
    of("nginx", NGINX).or_else(|| of("HAProxy", HAPROXY))
}

/// Directives of nginx, as in the table of `docs/from-nginx.md`.
const NGINX: &[(&str, &str)] = &[
    ("access_log", "`log.access` for all, `access_log = false` on a route for none"),
    ("add_header", "`response_headers = { Name = \"value\" }`"),
    ("alias", STAYS_FILES),
    ("allow", "not in Holdline; filter in the firewall, or leave it to nginx"),
    ("auth_basic", "not in Holdline; leave it to nginx or the application"),
    ("auth_basic_user_file", "not in Holdline; leave it to nginx or the application"),
    ("auth_request", "not in Holdline; leave it to nginx or the application"),
    ("autoindex", STAYS_FILES),
    ("brotli", STAYS_GZIP),
    ("client_body_timeout", "`body_timeout` of [[listen]]"),
    ("client_header_timeout", "`header_timeout` of [[listen]]"),
    ("client_max_body_size", "`max_body_size` of [[route]] or [defaults]"),
    ("daemon", "nothing to write; Holdline stays in the foreground, systemd runs it"),
    ("default_server", "nothing to write; a route without `hosts` takes what no other takes"),
    ("deny", "not in Holdline; filter in the firewall, or leave it to nginx"),
    ("error_log", "the log goes to standard error; `log.level` sets how much"),
    ("error_page", "not in Holdline; it answers with plain text"),
    ("events", "nothing to write; `max_connections` and `workers` of [process]"),
    ("expires", STAYS_FILES),
    ("geo", "not in Holdline; leave it to nginx"),
    ("gzip", STAYS_GZIP),
    ("gzip_proxied", STAYS_GZIP),
    ("gzip_types", STAYS_GZIP),
    ("hash", "`balance = { hash = \"path\" }`, or \"header:NAME\", \"cookie:NAME\", \"query:NAME\""),
    ("http", "nothing to write; [[listen]], [[route]] and [upstream.NAME] stand at the top"),
    ("http2", "`protocols = [\"h1\", \"h2\"]` of [[listen]]; the default over TLS"),
    ("if", "not in Holdline; a route for each host or path"),
    ("include", "not in Holdline; one file holds everything, so join the files before"),
    ("index", STAYS_FILES),
    ("ip_hash", "`balance = \"ip_hash\"` of [upstream.NAME]"),
    ("large_client_header_buffers", "`max_header_size` of [[listen]]"),
    ("least_conn", "`balance = \"least_conn\"` of [upstream.NAME], the default"),
    ("limit_conn", "`limits = { connections_per_ip = 10 }`"),
    ("limit_conn_zone", "nothing to write; `limits` needs no zones"),
    ("limit_rate", "not in Holdline"),
    ("limit_req", "`limits = { openings_per_ip = { rate = \"10/s\" } }`"),
    ("limit_req_zone", "nothing to write; `limits` needs no zones"),
    ("listen", "[[listen]] with `address = \"0.0.0.0:80\"`"),
    ("location", "[[route]] with `path`, `path_exact` or `path_regex`"),
    ("log_format", "`log.format = \"text\"` or \"json\""),
    ("map", "nothing to write for upgrades; Holdline has no variables"),
    ("mirror", "not in Holdline"),
    ("pid", "`pid_file` of [process]"),
    ("port_in_redirect", "not in Holdline"),
    ("proxy_buffer_size", "nothing to write; bodies are streamed both ways"),
    ("proxy_buffering", "nothing to write; bodies are streamed both ways"),
    ("proxy_buffers", "nothing to write; bodies are streamed both ways"),
    ("proxy_cache", "not in Holdline; leave it to nginx"),
    ("proxy_connect_timeout", "`connect_timeout` of [[route]] or [defaults]"),
    ("proxy_hide_header", "not in Holdline"),
    ("proxy_http_version", "nothing to write; upgrades always pass"),
    ("proxy_next_upstream", "`retry = { on = [\"connect\"] }` of [upstream.NAME]"),
    ("proxy_next_upstream_timeout", "`retry = { timeout = \"10s\" }` of [upstream.NAME]"),
    ("proxy_next_upstream_tries", "`retry = { tries = 2 }` of [upstream.NAME]"),
    ("proxy_pass", "`upstream = \"NAME\"` in [[route]], and `servers` in [upstream.NAME]"),
    ("proxy_pass_header", "nothing to write; headers pass"),
    ("proxy_protocol", "`proxy_protocol` of [[listen]] or [upstream.NAME]"),
    ("proxy_read_timeout", "`response_timeout` before the answer, `read_timeout` in a tunnel"),
    ("proxy_redirect", "not in Holdline"),
    ("proxy_request_buffering", "nothing to write; bodies are streamed both ways"),
    ("proxy_send_timeout", "`send_timeout` of [[route]] or [defaults]"),
    (
        "proxy_set_header",
        "`headers = { set = { Name = \"value\" } }`; Host, Upgrade and X-Forwarded-* need nothing",
    ),
    ("proxy_socket_keepalive", "`tcp_keepalive` of [upstream.NAME], on by default"),
    ("proxy_ssl_certificate", "`client_cert` of [upstream.NAME.tls]"),
    ("proxy_ssl_certificate_key", "`client_key` of [upstream.NAME.tls]"),
    ("proxy_ssl_name", "`server_name` of [upstream.NAME.tls]"),
    ("proxy_ssl_server_name", "nothing to write; SNI is always sent"),
    ("proxy_ssl_trusted_certificate", "`ca` of [upstream.NAME.tls]"),
    ("proxy_ssl_verify", "nothing to write; upstreams are verified, see [upstream.NAME.tls]"),
    ("random", "`balance = \"random_two\"` of [upstream.NAME]"),
    ("real_ip_header", "`header` of [real_ip]"),
    ("real_ip_recursive", "`recursive` of [real_ip]"),
    ("resolver", "nothing to write; the system's resolver is asked, `resolve` says how often"),
    ("return", "`respond = { status = 200, body = \"...\" }`"),
    ("root", STAYS_FILES),
    ("send_timeout", "`send_timeout` of [[route]], `body_timeout` of [[listen]]"),
    ("server", "[[listen]] for its ports, [[route]] with `hosts`; of an upstream `servers`"),
    ("server_name", "`hosts = [\"example.com\"]` of [[route]]"),
    ("set", "not in Holdline; it has no variables"),
    ("set_real_ip_from", "`trusted` of [real_ip]"),
    ("slice", "not in Holdline; leave it to nginx"),
    ("ssl", "[listen.tls] with `certificates`"),
    ("ssl_certificate", "`certificates = [{ cert = \"...\", key = \"...\" }]` of [listen.tls]"),
    ("ssl_certificate_key", "`certificates = [{ cert = \"...\", key = \"...\" }]` of [listen.tls]"),
    ("ssl_ciphers", "nothing to write; only ciphers without known faults are offered"),
    ("ssl_client_certificate", "`client_ca` of [listen.tls]"),
    ("ssl_crl", "`client_crls` of [listen.tls]"),
    ("ssl_prefer_server_ciphers", "nothing to write"),
    ("ssl_protocols", "`min_version = \"1.2\"` of [listen.tls]"),
    ("ssl_session_cache", "nothing to write; sessions are resumed"),
    ("ssl_stapling", "not in Holdline"),
    ("ssl_verify_client", "`client_auth` of [listen.tls]"),
    ("stream", "not in Holdline; it proxies HTTP and WebSockets"),
    ("sub_filter", "not in Holdline; leave it to nginx"),
    ("tcp_nodelay", "nothing to write; it is always on"),
    ("tcp_nopush", "nothing to write"),
    ("sendfile", "nothing to write"),
    ("try_files", STAYS_FILES),
    ("use", "nothing to write"),
    ("user", "nothing to write; systemd sets the user"),
    ("worker_connections", "`max_connections` of [process]"),
    ("worker_processes", "`workers` of [process]"),
    (
        "worker_rlimit_nofile",
        "nothing to write; the limit is raised at start, `LimitNOFILE=` of systemd bounds it",
    ),
    ("worker_shutdown_timeout", "`shutdown_grace` of [process]"),
    ("zone", "nothing to write; all threads share their counts"),
];

const STAYS_FILES: &str = "Holdline serves no files; leave them to nginx, with a route to it";
const STAYS_GZIP: &str = "Holdline does not compress; leave it to nginx or the application";

/// Keywords of HAProxy.
const HAPROXY: &[(&str, &str)] = &[
    ("acl", "not in Holdline; [[route]] with `hosts` and `path`"),
    ("backend", "[upstream.NAME]"),
    ("bind", "[[listen]] with `address = \"0.0.0.0:80\"`"),
    ("check", "not in Holdline; `max_fails` and `fail_timeout` take endpoints out"),
    ("compression", STAYS_GZIP),
    ("cookie", "`balance = { hash = \"cookie:NAME\" }` of [upstream.NAME]"),
    ("crt", "`certificates = [{ cert = \"...\", key = \"...\" }]` of [listen.tls]"),
    ("default_backend", "[[route]] with `path = \"/\"` and `upstream`"),
    ("errorfile", "not in Holdline; it answers with plain text"),
    ("frontend", "[[listen]] for its ports, [[route]] for its rules"),
    ("global", "[process] and [log]"),
    ("hard_stop_after", "`shutdown_grace` of [process]"),
    ("httpchk", "not in Holdline; `max_fails` and `fail_timeout` take endpoints out"),
    ("inter", "not in Holdline; `max_fails` and `fail_timeout` take endpoints out"),
    ("leastconn", "`balance = \"least_conn\"`"),
    ("maxconn", "`max_connections` of [process], `max_conns` of a server"),
    ("mode", "nothing to write; HTTP and WebSockets are proxied"),
    ("nbthread", "`workers` of [process]"),
    ("option", "nothing to write; most of HAProxy's options are always on"),
    ("redispatch", "`retry` of [upstream.NAME]"),
    ("retries", "`retry = { tries = 3 }` of [upstream.NAME]"),
    ("roundrobin", "`balance = \"round_robin\"`"),
    ("send_proxy", "`proxy_protocol = \"v1\"` of [upstream.NAME]"),
    ("send_proxy_v2", "`proxy_protocol = \"v2\"` of [upstream.NAME]"),
    ("accept_proxy", "`proxy_protocol = \"accept\"` of [[listen]]"),
    ("slowstart", "`slow_start` of [upstream.NAME]"),
    ("stats", "[admin]; `holdline ctl` and the page ask it"),
    ("stick_table", "`balance = \"ip_hash\"` or a hash of [upstream.NAME]"),
    ("timeout", "`connect_timeout`, `response_timeout` and `read_timeout` of [[route]]"),
    ("timeout_client", "`header_timeout`, `keepalive_timeout` and `body_timeout` of [[listen]]"),
    ("timeout_connect", "`connect_timeout` of [[route]]"),
    ("timeout_http_request", "`header_timeout` of [[listen]]"),
    ("timeout_server", "`response_timeout` of [[route]]"),
    ("timeout_tunnel", "`read_timeout` of [[route]]"),
    ("tune", "nothing to write"),
    ("use_backend", "[[route]] with `hosts`, `path` and `upstream`"),
];

/// Which language a file that is not TOML seems to be in.
pub(super) fn syntax(text: &str) -> Option<&'static str> {
    let lines = || text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let count = |is: &dyn Fn(&str) -> bool| lines().filter(|line| is(line)).count();
    let tables = count(&|line| line.starts_with('[') && line.ends_with(']'));
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let is_nginx = |line: &str| {
        let starts = first(line);
        let starts = starts.trim_end_matches(['{', ';']);
        let known =
            NGINX.iter().any(|(word, _)| *word == starts) || starts == "upstream" || starts == "keepalive";
        known && line.ends_with(['{', ';']) && !line.contains(" = ")
    };
    let is_haproxy = |line: &str| {
        ["frontend", "backend", "global", "defaults", "listen"].contains(&first(line).as_str())
            && !line.contains('=')
    };
    if count(&is_nginx) > 0 {
        return Some(
            "this looks like nginx's syntax; docs/from-nginx.md says what to write, in TOML: key = \"value\"",
        );
    }
    if text.trim_start().starts_with('{') {
        return Some("this looks like JSON; the configuration is TOML, see proxy.toml.example");
    }
    if tables == 0 && count(&is_haproxy) > 0 {
        return Some("this looks like HAProxy's syntax; the configuration is TOML, see proxy.toml.example");
    }
    let is_yaml = |line: &str| {
        let key = line.trim_start_matches("- ").split_once(':').map(|(key, rest)| (key, rest.trim()));
        let is_key = |key: &str| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        };
        key.is_some_and(|(key, _)| is_key(key)) && !line.contains('=')
    };
    (tables == 0 && count(&is_yaml) > 1)
        .then_some("this looks like YAML; the configuration is TOML, see proxy.toml.example")
}

/// Replaces each `$$` by `$`.
///
/// # Errors
/// The first variable: a `$` before a name or a number, or HAProxy's `%[`.
pub(super) fn unescape_dollars(text: &str) -> Result<String, String> {
    if let Some((_, variable)) = text.split_once("%[") {
        return Err(format!("%[{}]", variable.split(']').next().unwrap_or_default()));
    }
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        plain.push_str(before);
        plain.push('$');
        rest = after.strip_prefix('$').unwrap_or(after);
        if let Some(name) = variable(after) {
            return Err(format!("${name}"));
        }
    }
    Ok(plain + rest)
}

/// The text that [`unescape_dollars`] reads as this one.
pub(super) fn escape_dollars(text: &str) -> String {
    if unescape_dollars(text).as_deref() == Ok(text) { text.to_owned() } else { text.replace('$', "$$") }
}

/// The name of a variable at the beginning of a text, which follows its `$`. It includes the braces.
pub(super) fn variable(text: &str) -> Option<&str> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if let Some(inner) = text.strip_prefix('{') {
        return inner
            .find('}')
            .filter(|&end| end > 0 && inner[..end].chars().all(of_name))
            .map(|end| &text[..end + 2]);
    }
    let end = text.find(|c| !of_name(c)).unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// What to write instead of a variable of nginx in a header or a path.
pub(super) fn instead_of(variable: &str) -> Option<&'static str> {
    match variable.trim_matches(['$', '{', '}']).to_ascii_lowercase().as_str() {
        "host" | "http_host" => Some("Host goes on as the client sent it, so leave it out"),
        "remote_addr"
        | "proxy_add_x_forwarded_for"
        | "proxy_protocol_addr"
        | "realip_remote_addr"
        | "remote_port"
        | "scheme"
        | "https"
        | "server_port" => {
            Some("`forwarded = \"x\"`, the default, sends X-Real-IP and X-Forwarded-*, so leave it out")
        }
        "http_upgrade" | "connection_upgrade" => Some("upgrades always pass, so leave it out"),
        "request_uri" | "uri" | "document_uri" | "args" | "query_string" | "is_args" => {
            Some("path and query go on as they came; `strip_prefix` and `rewrite` change the path")
        }
        name if name.starts_with("ssl_client") => {
            Some("X-SSL-Client-* are sent where clients have certificates")
        }
        name if name.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some("groups are those of path_regex, in `rewrite`")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_stand_once_and_say_something() {
        for words in [NGINX, HAPROXY] {
            for (index, (word, text)) in words.iter().enumerate() {
                assert!(words[..index].iter().all(|(other, _)| other != word), "{word} stands twice");
                assert!(
                    !text.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '2')
                );
            }
        }
        assert!(word("Proxy-Pass").is_some_and(|text| text.starts_with("`Proxy-Pass` of nginx: ")));
        assert_eq!(word("read_timout"), None);
    }

    #[test]
    fn files_of_other_programs_are_known() {
        let of = |text| syntax(text).unwrap_or("").split(' ').nth(3).unwrap_or("").to_owned();
        assert_eq!(of("server {\n  listen 80;\n}\n"), "nginx's");
        assert_eq!(of("[[listen]]\nlisten 80;\n"), "nginx's");
        assert_eq!(of("worker_processes auto;\n"), "nginx's");
        assert_eq!(of("frontend web\n  bind *:80\n"), "HAProxy's");
        assert_eq!(of("{\"listen\": 80}"), "JSON;");
        assert_eq!(of("listen:\n  - address: 0.0.0.0:80\n"), "YAML;");
        assert_eq!(syntax("[[listen]]\naddress = 0.0.0.0:80\n"), None);
    }

    #[test]
    fn a_dollar_that_names_nothing_is_a_dollar() {
        for (text, plain) in [
            ("a", "a"),
            ("5 $", "5 $"),
            ("$ 5, $-", "$ 5, $-"),
            ("$$5 $$host $$", "$5 $host $"),
            ("^a$", "^a$"),
        ] {
            assert_eq!(unescape_dollars(text).as_deref(), Ok(plain));
        }
        for text in ["$host", "x-${host}", "$1", "a$_b", "%[src]", "$$$host"] {
            assert!(unescape_dollars(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_literal_reads_as_it_was_escape_dollars(text in "[$a{}%5 ]{0,12}") {
            prop_assert_eq!(unescape_dollars(&escape_dollars(&text)), Ok(text));
        }
    }
}
