//! `NO_PROXY` is read as curl reads it.

use taipan_tests::{RawServer, Sandbox, response};

fn start() -> RawServer {
    RawServer::start("127.0.0.1", |_| response("200 OK", &[], b"content\n")).unwrap()
}

#[test]
fn exceptions_are_read_as_curl_reads_them() {
    let (server, proxy) = (start(), start());
    let port = server.url.rsplit_once(':').unwrap().1.to_owned();
    let with_port = format!("127.0.0.1:{port}");
    for (host, no_proxy, is_direct) in [
        ("127.0.0.1", "", false),
        ("127.0.0.1", "*", true),
        ("127.0.0.1", "a,*", false),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", &with_port, false),
        ("127.0.0.1", "127.0.0.0/8", true),
        ("127.0.0.1", "a 127.0.0.1", true),
        ("127.0.0.1", "a,  127.0.0.1", true),
        ("localhost", ".localhost", true),
        ("localhost", "localhost.", true),
        ("localhost", "a b LOCALHOST", true),
        ("localhost", "local", false),
        ("localhost", "*.localhost", false),
    ] {
        let mut sandbox = Sandbox::new();
        sandbox.set("HTTP_PROXY", &proxy.url);
        sandbox.set("NO_PROXY", no_proxy);
        let url = format!("http://{host}:{port}/f");
        sandbox.run(&["fetch", &url, "-o", "out"]).expect(0);
        let went = (!server.take().is_empty(), !proxy.take().is_empty());
        assert_eq!(went, (is_direct, !is_direct), "{host} {no_proxy:?}");
    }
}
