//! An identifier of the current network. Measurements of mirrors are valid in one network only.
//!
//! It is derived from the default route (interface and gateway) and the proxies. Two networks whose
//! gateways have the same address, as home routers often have, have the same identifier; then the
//! first requests correct the measurements. Only a digest is stored.

use std::fmt::Write as _;

use taipan_transfer::Sha256;
use url::Url;

/// The IPv4 routing table of Linux.
const ROUTES: &str = "/proc/net/route";

/// The environment variables of proxies. The lower-case name is valid, too.
const PROXIES: [&str; 3] = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"];

/// The identifier of the current network; empty when there is neither a default route nor a proxy.
pub(crate) fn current() -> String {
    // Only Linux has this file.
    let routes = std::fs::read_to_string(ROUTES).unwrap_or_default();
    let proxies: Vec<(&str, String)> = PROXIES
        .iter()
        .filter_map(|name| {
            let value = std::env::var(name.to_lowercase()).or_else(|_| std::env::var(name));
            Some((*name, value.ok().filter(|value| !value.is_empty())?))
        })
        .collect();
    identifier(&routes, &proxies)
}

/// The identifier for these routes, in the format of `/proc/net/route`, and proxies.
fn identifier(routes: &str, proxies: &[(&str, String)]) -> String {
    let mut text = String::new();
    if let Some((interface, gateway)) = default_route(routes) {
        let _ = writeln!(text, "route {interface} {gateway}");
    }
    for (variable, proxy) in proxies {
        let _ = writeln!(text, "{variable} {}", without_secrets(proxy));
    }
    if text.is_empty() {
        return text;
    }
    Sha256::of(text.as_bytes()).to_string()[..16].to_owned()
}

/// Interface and gateway of the default route; of several, the one with the lowest metric.
fn default_route(routes: &str) -> Option<(&str, &str)> {
    /// The route is usable (`RTF_UP`).
    const UP: u32 = 1;
    routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [
                interface,
                destination,
                gateway,
                flags,
                _,
                _,
                metric,
                mask,
                ..,
            ] = fields[..]
            else {
                return None;
            };
            let is_zero = |field: &str| !field.is_empty() && field.bytes().all(|b| b == b'0');
            let is_up = u32::from_str_radix(flags, 16).ok()? & UP != 0;
            let is_default = is_up && is_zero(destination) && is_zero(mask);
            let metric: u32 = metric.parse().ok()?;
            is_default.then_some((metric, interface, gateway))
        })
        .min_by_key(|(metric, ..)| *metric)
        .map(|(_, interface, gateway)| (interface, gateway))
}

/// Scheme, host and port of a proxy: the password does not identify a network.
fn without_secrets(proxy: &str) -> String {
    let parsed = Url::parse(proxy).ok().filter(Url::has_host);
    // Most programs also accept a proxy without a scheme.
    match parsed.or_else(|| Url::parse(&format!("http://{proxy}")).ok()) {
        Some(url) => format!(
            "{}://{}:{}",
            url.scheme(),
            url.host_str().unwrap_or_default(),
            url.port_or_known_default().unwrap_or_default()
        ),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    const HOME: &str = "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
    const CABLE: &str = "eth0\t00000000\t010AA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
    const LOCAL: &str = "wlan0\t0000A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n";
    const DOWN: &str = "tun0\t00000000\t01010101\t0002\t0\t0\t1\t00000000\t0\t0\t0\n";

    fn of(routes: &[&str]) -> String {
        identifier(&format!("{HEAD}{}", routes.concat()), &[])
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_identifies_the_network() {
        let both = format!("{HEAD}{HOME}{CABLE}{LOCAL}{DOWN}");
        assert_eq!(default_route(&both), Some(("eth0", "010AA8C0")));
        assert_eq!(of(&[HOME, LOCAL]), of(&[LOCAL, HOME, DOWN]));
        assert_eq!(of(&[HOME, CABLE]), of(&[CABLE]));
        assert_ne!(of(&[HOME]), of(&[CABLE]));
        assert_eq!(of(&[HOME]).len(), 16);
    }

    #[test]
    fn without_a_default_route_or_proxy_the_identifier_is_empty() {
        assert_eq!(of(&[LOCAL, DOWN]), "");
        assert_eq!(identifier("", &[]), "");
        assert_eq!(identifier("one line\nwlan0 00000000\n\u{0}\n", &[]), "");
    }

    #[test]
    fn a_proxy_identifies_a_network_and_its_password_does_not() {
        let proxy = |url: &str| identifier(HEAD, &[("HTTPS_PROXY", url.to_owned())]);
        assert_ne!(
            proxy("http://p.example:3128"),
            proxy("http://q.example:3128")
        );
        assert_ne!(proxy("http://p.example:3128"), of(&[HOME]));
        assert_eq!(
            proxy("http://me:old@p.example:3128/"),
            proxy("http://me:new@p.example:3128")
        );
        assert_eq!(proxy("p.example:3128"), proxy("http://p.example:3128"));
    }
}
