//! Methods and targets.

use crate::support::http2::Http2;
use crate::support::{PATIENCE, Proxy, Puppet, upstream, with_listen, ws_request};
use crate::{value, with};
use holdline::testing::outcome::Cause;
use holdline::testing::ws::frame::OpCode;
use http::{Method, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn a_rewritten_path_keeps_its_bytes() {
    let puppet = Puppet::new().await;
    let routes = "[[route]]\npath = \"/pub/\"\nstrip_prefix = true\nupstream = \"up\"\n\
                  [[route]]\npath_regex = \"^/d/(.*)/(.*)$\"\nrewrite = \"/$2/$1\"\nupstream = \"up\"\n";
    let proxy = Proxy::start(&format!("{routes}{}", upstream(&[puppet.address()], ""))).await;
    for (target, expected) in [
        ("/pub/%ff%fe?a=%ff", "/%FF%FE?a=%ff"),
        ("/pub/%C3%A4%2Fb", "/%C3%A4/b"),
        ("/d/%ff/x", "/x/%FF"),
        ("/d/%C3%A4/%80", "/%80/%C3%A4"),
    ] {
        let mut client = proxy.connect().await;
        client.write(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let head = puppet.accept().await.head().await;
        assert_eq!(head.split(' ').nth(1), Some(expected), "{target}");
    }
}

#[tokio::test]
async fn a_target_that_grows_too_long_is_refused() {
    let routes = "[[route]]\npath = \"/pub/\"\nstrip_prefix = true\nupstream = \"up\"\n\
                  [[route]]\npath_regex = \"^/d/(.*)$\"\nrewrite = \"/x/$1/$1/$1/$1/$1\"\nupstream = \"up\"\n";
    let puppet = Puppet::new().await;
    let rest = with_listen(&format!("{routes}{}", upstream(&[puppet.address()], "")));
    let listen = "address = \"127.0.0.1:0\"\nmax_header_size = \"128k\"";
    let mut proxy = Proxy::with(&rest.replace("address = \"127.0.0.1:0\"", listen)).await;
    for target in [format!("/pub/{}?a=1", "{".repeat(25_000)), format!("/d/{}", "a".repeat(15_000))] {
        let mut client = proxy.connect().await;
        let head =
            client.ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 414"), "{head}");
        let body = String::from_utf8(client.rest().await).unwrap();
        assert!(body.contains("the target is over 65534 bytes once it is rewritten"), "{body}");
        let ended = proxy.ended().await;
        assert_eq!(
            (ended.report.status, ended.outcome.ending.cause, ended.report.tries),
            (414, Cause::Refused, 0)
        );
    }
}

#[tokio::test]
async fn a_trace_is_refused_and_connect_too() {
    let puppet = Puppet::new().await;
    let mut proxy = Proxy::before(&[puppet.address()]).await;
    for line in ["TRACE /", "trace /", "CONNECT x:80"] {
        let mut client = proxy.connect().await;
        let head = client.ask(&format!("{line} HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 405"), "{line}: {head}");
        assert!(value(&head, "allow").unwrap().contains("OPTIONS"), "{head}");
        assert_eq!(proxy.ended().await.report.tries, 0);
    }
    let proxy = with("protocols = [\"h2\"]", "", "", puppet.address()).await;
    let mut client = Http2::over(TcpStream::connect(proxy.address).await.unwrap()).await;
    let request = Request::builder().method(Method::TRACE).uri("http://x/").body(()).unwrap();
    assert_eq!(client.ask(request).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn options_of_the_server_as_a_whole_pass() {
    let puppet = Puppet::new().await;
    let settings = "[[route]]\npath = \"/\"\nupstream = \"up\"\nrewrite = \"/below/\"";
    let proxy = Proxy::start(&format!("{settings}\n{}", upstream(&[puppet.address()], ""))).await;
    let mut client = proxy.connect().await;
    client.write("OPTIONS * HTTP/1.1\r\nHost: x\r\nMax-Forwards: 7\r\n\r\n").await;
    let mut server = puppet.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert_eq!((value(&head, "host"), value(&head, "max-forwards")), (Some("x"), Some("6")));
    server.write("HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
    // Who may pass no further is answered here.
    let head = client.ask("OPTIONS /a HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && value(&head, "allow").is_some(), "{head}");
    // The form is for this method alone.
    let head = client.ask("GET * HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn options_of_the_server_as_a_whole_pass_over_http2() {
    let puppet = Puppet::new().await;
    let proxy = with("protocols = [\"h2\"]", "", "", puppet.address()).await;
    let mut raw = proxy.connect().await;
    // The library that the other tests use cannot ask so.
    raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let fields =
        [&b"\0\x07:method\x07OPTIONS"[..], b"\0\x05:path\x01*", b"\x86", b"\0\x0a:authority\x01x"].concat();
    raw.write([&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1], &fields[..]].concat()).await;
    let mut server = timeout(PATIENCE, puppet.accept()).await.unwrap();
    let head = server.head().await;
    assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    assert_eq!(value(&head, "host"), Some("x"));
}

#[tokio::test]
async fn a_target_goes_on_with_what_only_programs_send() {
    let puppet = Puppet::new().await;
    let proxy = Proxy::before(&[puppet.address()]).await;
    for (target, expected) in [
        (&b"/x/{\"a\":1}"[..], "/x/{\"a\":1}"),
        (b"/x?f={\"a\":1}", "/x?f={%22a%22:1}"),
        (b"/x?f=<a>", "/x?f=%3Ca%3E"),
        (b"/x/<a>`b", "/x/%3Ca%3E%60b"),
        (b"/x?f=a|b`[1]\\^", "/x?f=a|b`[1]\\^"),
    ] {
        let mut client = proxy.connect().await;
        // As the first request, as a later one, and as a handshake.
        let ask = |lines: &str| {
            [b"GET ".as_slice(), target, b" HTTP/1.1\r\nHost: x\r\nX: <\"\r\n", lines.as_bytes(), b"\r\n"]
                .concat()
        };
        for lines in ["", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let body = match lines {
                "" => "",
                "Content-Length: 3\r\n" => "<\">",
                _ => "3\r\n<\">\r\n0\r\n\r\n",
            };
            client.write([ask(lines), body.into()].concat()).await;
            let mut server = puppet.accept().await;
            let head = server.head().await;
            assert_eq!(head.split(' ').nth(1), Some(expected), "{lines}");
            assert_eq!(value(&head, "x"), Some("<\""));
            server.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
            assert!(client.head().await.starts_with("HTTP/1.1 204"));
        }
        let upgrade = ws_request("/", "").replacen("GET / HTTP/1.1\r\nHost: example.com\r\n", "", 1);
        client.write(ask(upgrade.trim_end_matches("\r\n")).as_slice()).await;
        client.write("\r\n").await;
        let (mut server, head) = puppet.open().await;
        assert_eq!(head.split(' ').nth(1), Some(expected));
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        client.send(OpCode::Text, b"GET /<> HTTP/1.1\r\n").await;
        assert_eq!(server.frame().await, (OpCode::Text, b"GET /<> HTTP/1.1\r\n".to_vec()));
    }
}
