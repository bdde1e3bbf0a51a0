//! Hosts: what is not granted, odd spellings of addresses, names that lead to this machine, and
//! redirects.

use proto::sandboxes::ExecuteRequest;

use super::case::{Case, With as _, denied, denied_for, javascript, python, refused, told};
use crate::common::target::Target;

/// Two systems on this machine: code is granted the one and never the other.
pub(crate) struct Targets {
    pub(crate) granted: Target,
    pub(crate) hidden: Target,
}

impl Targets {
    pub(crate) async fn start() -> Self {
        Self { granted: Target::start().await, hidden: Target::start().await }
    }

    /// What the operator lets be granted, for the section `sandbox`.
    pub(crate) fn ceiling(&self) -> String {
        let (granted, hidden) = (self.granted.port(), self.hidden.port());
        format!(
            "    network:\n      allowlist: ['127.0.0.1:{granted}', 'localhost:{granted}', \
             'localhost:{hidden}', '169.254.169.254:80', '10.0.0.1:{granted}', \
             '127.0.0.1:{hidden}', '[::1]:{hidden}', '0.0.0.0:{hidden}', \
             '*.example.com']\n      denylist: ['10.0.0.0/8']\n"
        )
    }
}

fn fetch(url: &str) -> ExecuteRequest {
    javascript(&format!("return await (await fetch({url:?})).text()"))
}

fn fetch_python(url: &str) -> ExecuteRequest {
    python(&format!("from tally import fetch\nreturn fetch({url:?}).text()"))
}

pub(crate) fn cases(targets: &Targets) -> Vec<Case> {
    let mut cases = hosts(targets);
    cases.extend(spellings(targets));
    cases.extend(names(targets));
    cases.extend(redirects(targets));
    cases
}

fn hosts(targets: &Targets) -> Vec<Case> {
    let (granted, hidden) = (targets.granted.port(), targets.hidden.port());
    let own = format!("127.0.0.1:{granted}");
    let other = format!("127.0.0.1:{hidden}");
    vec![
        Case {
            name: "a host without any grant",
            request: fetch(&format!("http://{own}/")),
            want: denied("network", &own),
        },
        Case {
            name: "another port of a granted host",
            request: fetch(&format!("http://{other}/")).hosts(&[&own], &[]),
            want: denied("network", &other),
        },
        Case {
            name: "TLS where plain HTTP is granted",
            request: fetch("https://127.0.0.1/").hosts(&[&own], &[]),
            want: denied("network", "127.0.0.1:443"),
        },
        Case {
            name: "a host that the request itself denies",
            request: fetch(&format!("http://{own}/")).hosts(&[&own], &["127.0.0.0/8"]),
            want: denied_for("network", &own, "127.0.0.1 has an address that is denied"),
        },
        Case {
            name: "a host that the operator denies",
            request: fetch(&format!("http://10.0.0.1:{granted}/"))
                .hosts(&[&format!("10.0.0.1:{granted}")], &[]),
            want: denied_for(
                "network",
                &format!("10.0.0.1:{granted}"),
                "10.0.0.1 has an address that is denied",
            ),
        },
        Case {
            name: "a host that the operator does not grant",
            request: fetch("https://evil.test/").hosts(&["evil.test"], &[]),
            want: refused("capability_not_grantable", "network `evil.test`"),
        },
        Case {
            name: "every host",
            request: fetch("https://example.com/").hosts(&["*.com"], &[]),
            want: refused("capability_not_grantable", "network `*.com`"),
        },
        Case {
            name: "the name above a wildcard",
            request: fetch("https://example.com/").hosts(&["*.example.com"], &[]),
            want: denied("network", "example.com:443"),
        },
        Case {
            name: "a name that only ends alike",
            request: fetch_python("https://evil-example.com/").hosts(&["*.example.com"], &[]),
            want: denied("network", "evil-example.com:443"),
        },
        Case {
            name: "the metadata service",
            request: fetch("http://169.254.169.254/latest/meta-data/").hosts(&[&own], &[]),
            want: denied_for(
                "network",
                "169.254.169.254:80",
                "not granted for 169.254.169.254 port 80",
            ),
        },
        Case {
            name: "the metadata service, granted and denied",
            request: fetch_python("http://169.254.169.254/latest/meta-data/")
                .hosts(&["169.254.169.254:80"], &["169.254.0.0/16"]),
            want: denied_for(
                "network",
                "169.254.169.254:80",
                "169.254.169.254 has an address that is denied",
            ),
        },
    ]
}

/// Other ways to write the address of this machine, at the port of the hidden system. It is granted
/// there and denied by its range, so that only who understands the spelling refuses it.
fn spellings(targets: &Targets) -> Vec<Case> {
    let (granted, hidden) = (targets.granted.port(), targets.hidden.port());
    let refused = |host: &str| format!("{host} has an address that is denied or not public");
    let python = |name, host: &str, grant: &str, said: &str| Case {
        name,
        request: fetch_python(&format!("http://{host}:{hidden}/"))
            .hosts(&[&format!("{grant}:{hidden}")], &["127.0.0.0/8", "::1/128"]),
        want: denied_for("network", &format!("{host}:{hidden}"), &refused(said)),
    };
    let own = |name, host: &str| python(name, host, "127.0.0.1", "127.0.0.1");
    let mut cases = vec![
        own("a decimal address", "2130706433"),
        own("a hexadecimal address", "0x7f000001"),
        own("an octal address", "0177.0.0.1"),
        own("a short address", "127.1"),
        python("an IPv6-mapped address", "[::ffff:127.0.0.1]", "127.0.0.1", "[::ffff:7f00:1]"),
        python("the IPv6 address of this machine", "[::1]", "[::1]", "[::1]"),
        python("the address of all interfaces", "0.0.0.0", "0.0.0.0", "0.0.0.0"),
    ];
    cases.push(Case {
        name: "a decimal address in JavaScript",
        request: fetch(&format!("http://2130706433:{hidden}/"))
            .hosts(&[&format!("127.0.0.1:{hidden}")], &["127.0.0.0/8"]),
        want: denied_for("network", &format!("127.0.0.1:{hidden}"), &refused("127.0.0.1")),
    });
    cases.push(Case {
        name: "a decimal address that is not granted",
        request: fetch_python(&format!("http://2130706433:{hidden}/"))
            .hosts(&[&format!("127.0.0.1:{granted}")], &[]),
        want: denied_for(
            "network",
            &format!("2130706433:{hidden}"),
            &format!("not granted for 127.0.0.1 port {hidden}"),
        ),
    });
    cases.push(Case {
        name: "a granted name in front of another host",
        request: fetch_python(&format!("http://example.com@127.0.0.1:{hidden}/"))
            .hosts(&["*.example.com"], &[]),
        want: denied("network", &format!("127.0.0.1:{hidden}")),
    });
    cases
}

/// A name that is granted and leads to this machine: the system's resolver says so of `localhost`.
fn names(targets: &Targets) -> Vec<Case> {
    let hidden = targets.hidden.port();
    let name = |name, host: &str| Case {
        name,
        request: fetch_python(&format!("http://{host}:{hidden}/"))
            .hosts(&[&format!("localhost:{hidden}")], &[]),
        want: denied_for(
            "network",
            &format!(":{hidden}"),
            "has an address that is denied or not public",
        ),
    };
    vec![
        name("a granted name that leads to loopback", "localhost"),
        name("the same in capitals", "LOCALHOST"),
        name("the same with a dot behind it", "localhost."),
    ]
}

fn redirects(targets: &Targets) -> Vec<Case> {
    let (granted, hidden) = (targets.granted.port(), targets.hidden.port());
    let own = format!("127.0.0.1:{granted}");
    let url = |to: &str| format!("http://{own}/to/{to}");
    let javascript = |name, to: &str, leads: &str| Case {
        name,
        request: javascript(&format!(
            "const away = await fetch({:?}, {{ redirect: 'manual' }}); \
             return await (await fetch(away.headers.get('location'))).text()",
            url(to)
        ))
        .hosts(&[&own], &[]),
        want: denied_for("network", leads, &not_granted(leads)),
    };
    let follow = |name, to: &str, leads: &str| Case {
        name,
        request: python(&format!(
            "from tally import fetch\naway = fetch({:?})\n\
             return fetch(away.headers['location']).text()",
            url(to)
        ))
        .hosts(&[&own], &[]),
        want: denied_for("network", leads, &not_granted(leads)),
    };
    let (port, there) = (hidden.to_string(), format!("127.0.0.1:{hidden}"));
    let metadata = "169.254.169.254:80";
    vec![
        Case {
            name: "a redirect is not followed for the code",
            request: python(&format!(
                "from tally import fetch\nreturn fetch({:?}).status",
                url(&port)
            ))
            .hosts(&[&own], &[]),
            want: told(302.into()),
        },
        javascript("JavaScript follows a redirect to what is hidden", &port, &there),
        follow("Python follows a redirect to what is hidden", &port, &there),
        javascript("JavaScript follows a redirect to the metadata service", "metadata", metadata),
        follow("Python follows a redirect to the metadata service", "metadata", metadata),
        Case {
            name: "a redirect to the metadata service, granted and denied",
            request: python(&format!(
                "from tally import fetch\naway = fetch({:?})\n\
                 return fetch(away.headers['location']).text()",
                url("metadata")
            ))
            .hosts(&[&own, metadata], &["169.254.0.0/16"]),
            want: denied_for(
                "network",
                metadata,
                "169.254.169.254 has an address that is denied or not public",
            ),
        },
    ]
}

/// What is said of `host:port` where no grant names it.
fn not_granted(host: &str) -> String {
    let (host, port) = host.rsplit_once(':').unwrap();
    format!("not granted for {host} port {port}")
}
