//! What code in a sandbox may reach: what globs, hosts and ranges match, and which grants are
//! within which.
#![expect(clippy::indexing_slicing, clippy::string_slice, reason = "a test fails by panicking")]

use kernel::capability::{Capabilities, Capability, Glob, Network};
use kernel::limits;
use proptest::prelude::*;
use serde_json::json;

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn read(globs: &[&str]) -> Capabilities {
    Capabilities { file_read: owned(globs), ..Capabilities::default() }
}

fn env(globs: &[&str]) -> Capabilities {
    Capabilities { env: owned(globs), ..Capabilities::default() }
}

fn network(allowlist: &[&str], denylist: &[&str]) -> Capabilities {
    let network = Network { allowlist: owned(allowlist), denylist: owned(denylist) };
    Capabilities { network, ..Capabilities::default() }
}

#[test]
fn globs_match_whole_paths() {
    for (glob, yes, no) in [
        ("/data/*", "/data/a /data/.hidden /data/ä", "/data /data/ /data/a/b /Data/a /xdata/a"),
        ("/data/*", "/data/...", "/data/.. /data/. /data//a /data/./a /data/../data/a data/a"),
        ("/data/**", "/data/a /data/a/b/c", "/data /data/ /database/a /data/../etc/passwd"),
        ("/data/**/x", "/data/x /data/a/x /data/a/b/x", "/data/ax /data/x/y /data/a/x/"),
        ("/**", "/a /a/b", "/ // /.. a"),
        ("/**/*.csv", "/a.csv /b/c/a.csv /.csv", "/a.csv/b /acsv /a.CSV"),
        ("/a/**/b/**/c", "/a/b/c /a/x/b/y/z/c /a/b/b/c /a/b/c/c", "/a/c /a/b /a/x/c/b"),
        ("/a?c", "/abc /a*c /aéc", "/ac /a/c /abbc"),
        ("/[abc]", "/a /b /c", "/d /ab /"),
        ("/[!a-c]", "/d /é", "/a /b /dd"),
        ("/[^a]", "/^ /b", "/a"),
        ("/[*]", "/*", "/a"),
        ("/[]]x", "/]x", "/x"),
        ("/[a-]", "/a /-", "/b"),
        ("/r-[0-9][0-9].csv", "/r-07.csv", "/r-7.csv /r-0a.csv /r-0/.csv"),
        ("/a*b*c", "/abc /aXbXbc /abcbc", "/ab /ac /abcd /ab/c"),
        ("/*a*a*a*a*a*b", "/aaaaab", "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"),
        ("/plain", "/plain", "/plain/ /plainer /plai /PLAIN"),
        ("/a..b/...", "/a..b/...", "/ab/.."),
    ] {
        let grant = read(&[glob]).parse().unwrap();
        for path in yes.split(' ') {
            assert!(grant.may_read(path), "{glob} matches {path}");
            assert!(!grant.may_write(path), "reading is not writing");
        }
        for path in no.split(' ') {
            assert!(!grant.may_read(path), "{glob} does not match {path}");
        }
    }
    assert!(!read(&["/a*"]).may_read("/a\0b") && !read(&["/**"]).may_read(""));
    assert!(!read(&[]).may_read("/a"));
}

#[test]
fn globs_name_the_folder_to_look_in() {
    for (glob, folder) in [
        ("/data/*", "/data"),
        ("/data/in/r-?.csv", "/data/in"),
        ("/data/[i]n/x", "/data/in"),
        ("/data/i*/x", "/data"),
        ("/data/**", "/data"),
        ("/data/x", "/data"),
        ("/x", ""),
        ("/**", ""),
    ] {
        assert_eq!(Glob::parse(glob).unwrap().folder(), folder, "{glob}");
    }
}

#[test]
fn names_of_variables() {
    let grant = env(&["USER", "OACP_*", "A?C"]).parse().unwrap();
    for name in ["USER", "OACP_", "OACP_KEY", "ABC"] {
        assert!(grant.may_env(name), "{name}");
    }
    for name in ["", "user", "USERS", "XUSER", "OACP", "AWS_SECRET_ACCESS_KEY", "AC", "ABBC"] {
        assert!(!grant.may_env(name), "{name}");
    }
}

#[test]
fn hosts() {
    let v6 = "2001:db8::1";
    for (entry, yes, no) in [
        ("a.test", "a.test:443 A.Test.:443", "a.test:80 b.a.test:443 xa.test:443 a.test.evil:443"),
        ("a.test:8443", "a.test:8443", "a.test:443 a.test:844"),
        ("*.a.test", "b.a.test:443 c.b.a.test:443", "a.test:443 xa.test:443 .a.test:443"),
        ("*.a.test", "B.A.TEST.:443", "b.a.test:80 a.test.evil:443 b.a.test.evil:443"),
        ("*.a.test:1", "b.a.test:1", "b.a.test:443 a.test:1 ..a.test:1"),
        ("127.0.0.1:80", "127.0.0.1:80 ::ffff:127.0.0.1:80", "localhost:80 127.0.0.2:80"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", "127.0.0.1:443"),
        ("[2001:db8::1]", "2001:db8::1:443", "2001:db8::2:443"),
        ("xn--mnchen-3ya.test", "xn--mnchen-3ya.test:443", "münchen.test:443"),
        ("_x.a.test", "_x.a.test:443", "x.a.test:443"),
    ] {
        let grant = network(&[entry], &[]).parse().unwrap().network;
        let ask = |text: &str| {
            let (host, port) = text.rsplit_once(':').unwrap();
            grant.allows(host, port.parse().unwrap())
        };
        assert!(yes.split(' ').all(ask), "{entry} allows {yes}");
        for text in no.split(' ') {
            assert!(!ask(text), "{entry} does not allow {text}");
        }
    }
    let grant = network(&["[2001:db8::1]:80", "10.0.0.1:80", "*.test:80"], &[]).network;
    assert!(grant.allows("[2001:db8::1]", 80) && grant.allows("[2001:DB8:0::1]", 80));
    assert!(grant.allows_address(v6.parse().unwrap(), 80));
    assert!(grant.allows_address("::ffff:10.0.0.1".parse().unwrap(), 80));
    assert!(!grant.allows_address("10.0.0.1".parse().unwrap(), 81));
    assert!(!grant.allows_address("10.0.0.2".parse().unwrap(), 80));
    assert!(!Network::default().allows("a.test", 443));
}

#[test]
fn ranges() {
    for (range, yes, no) in [
        ("169.254.0.0/16", "169.254.169.254 ::ffff:169.254.0.1 64:ff9b::a9fe:a9fe", "169.255.0.0"),
        ("10.0.0.0/8", "10.0.0.0 10.255.255.255", "11.0.0.0 9.255.255.255 ::10.0.0.1"),
        ("0.0.0.0/0", "1.2.3.4 ::ffff:1.2.3.4", "::1 2001:db8::1"),
        ("1.2.3.4/32", "1.2.3.4", "1.2.3.5"),
        ("1.2.3.4", "1.2.3.4", "1.2.3.5"),
        ("fd00::/8", "fd00::1 fdff::", "fc00::1 fe00::"),
        ("::/0", "::1 2001:db8::1 ::ffff:1.2.3.4", "1.2.3.4"),
        ("::1", "::1", "::2"),
        ("::ffff:10.0.0.0/104", "10.1.2.3 ::ffff:10.1.2.3", "11.0.0.0"),
    ] {
        let grant = network(&[], &[range]).parse().unwrap().network;
        for ip in yes.split(' ') {
            assert!(grant.denies(ip.parse().unwrap()), "{range} has {ip}");
        }
        for ip in no.split(' ') {
            assert!(!grant.denies(ip.parse().unwrap()), "{range} does not have {ip}");
        }
    }
    assert!(!Network::default().denies("127.0.0.1".parse().unwrap()));
    // What does not read denies everything.
    assert!(network(&[], &["rubbish"]).network.denies("1.2.3.4".parse().unwrap()));
}

#[test]
fn what_is_wrong_is_refused_and_says_what_to_change() {
    let long = format!("/{}", "a".repeat(limits::CAPABILITY_BYTES_MAX));
    let deep = "/a".repeat(limits::GLOB_NAMES_MAX + 1);
    let label = format!("{}.test", "a".repeat(64));
    let bad = |list: &str, values: &[&str]| {
        for value in values {
            let network = matches!(list, "allowlist" | "denylist");
            let given = match network {
                true => json!({ "network": { list: [value] } }),
                false => json!({ list: [value] }),
            };
            let given: Capabilities = serde_json::from_value(given).unwrap();
            let refused = given.validate().unwrap_err();
            assert_eq!(refused.code(), "capability_invalid");
            assert!(refused.list.ends_with(list), "{refused}");
            assert!(refused.to_string().len() < 400, "{refused}");
        }
    };
    for list in ["file_read", "file_write"] {
        bad(list, &["", "/", "data/*", "*", "**", "./a", "~/a", "C:\\a", "file:///a"]);
        bad(list, &["/data/", "//data", "/data//a", "/data/../etc", "/..", "/.", "/a/./b"]);
        bad(list, &["/a**", "/**a", "/a/**/**/b", "/***", "/a\0", "/a\nb", "/a\\*", "/\u{7f}"]);
        bad(list, &["/[", "/[a", "/[]", "/[!]", "/a]", "/[z-a]", "/[a/b]", "/[--0]", &long, &deep]);
    }
    bad("allowlist", &["", "*", "*.", "*a.test", "a.*.test", "*.*.test", "A.test", "a..test"]);
    bad("allowlist", &[".a.test", "a.test.", "a.test:", "a.test:0", "a.test:65536", "a.test:+1"]);
    bad(
        "allowlist",
        &["a.test:080", "a.test:80:80", "a.test: 80", " a.test", "a b.test", "a.test/"],
    );
    bad("allowlist", &["https://a.test", "u@a.test", "münchen.test", "-a.test", "a-.test", &label]);
    bad("allowlist", &["127.1", "0x7f.0.0.1", "2130706433", "0177.0.0.1", "1.2.3.4.5", "a.0x1"]);
    bad("allowlist", &["::1", "[::1", "[::1]80", "[::1]:", "[fe80::1%eth0]", "[1.2.3.4]", "*.1.1"]);
    bad("denylist", &["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10/8", "/8"]);
    bad("denylist", &["::1/64", "::/129", "a.test", "10.0.0.0/8/8", "10.0.0.0/", "[::1]"]);
    bad("env", &["", "A=B", "A B", "Ä", "A/B", "**", "A\0", "[", "A\\"]);
}

#[test]
fn there_are_limits() {
    let entries = |count: usize| (0..count).map(|i| format!("/{i}")).collect::<Vec<_>>();
    let of = |file_read| Capabilities { file_read, ..Capabilities::default() };
    assert!(of(entries(limits::CAPABILITY_ENTRIES_MAX)).validate().is_ok());
    assert!(of(entries(limits::CAPABILITY_ENTRIES_MAX + 1)).validate().is_err());
    let long = |count: usize| {
        let entry = |i| format!("/{i:02}{}", "a".repeat(limits::CAPABILITY_BYTES_MAX - 3));
        of((0..count).map(entry).collect())
    };
    let most = limits::CAPABILITIES_BYTES_MAX / limits::CAPABILITY_BYTES_MAX;
    assert!(long(most).validate().is_ok());
    assert!(long(most + 1).validate().is_err());
    assert!(serde_json::from_str::<Capabilities>(r#"{"file_raed":[]}"#).is_err());
}

#[test]
fn a_grant_is_within_another() {
    for (wider, yes, no) in [
        (
            "/data/*",
            "/data/* /data/a /data/?.csv /data/*.csv /data/[ab]",
            "/data/** /data /data/a/b",
        ),
        ("/data/**", "/data/** /data/* /data/a/*/b /data/x/**", "/** /dat?/a /data /other/a"),
        ("/**", "/** /a /a/**/b", ""),
        ("/a/**/z", "/a/z /a/b/z /a/**/z /a/*/z /a/**/b/z", "/a/** /a/*z"),
        ("/[a-f]", "/a /[bc] /[a-f]", "/g /[a-g] /? /[!g] /*"),
        ("/[!a]", "/b /[!a] /[!ab] /[b-z]", "/a /? /[!b]"),
        ("/?", "/? /a /[!x]", "/* /??"),
        ("/a*", "/a /a* /ab /a?*", "/* /?a"),
        ("/*.csv", "/*.csv /a.csv /a*.csv /*.x.csv", "/*.cs? /*.csv* /*"),
        ("/a", "/a /[a]", "/A /a*"),
    ] {
        let asked = |glob: &str| read(&[wider]).covers(&read(&[glob])).is_ok();
        assert!(yes.split(' ').all(asked), "{wider} covers {yes}");
        for glob in no.split(' ').filter(|glob| !glob.is_empty()) {
            assert!(!asked(glob), "{wider} does not cover {glob}");
        }
    }
    for (wider, yes, no) in [
        ("a.test", "a.test a.test:443", "a.test:80 *.a.test b.test"),
        ("*.a.test", "b.a.test *.a.test *.b.a.test c.b.a.test:443", "a.test *.test b.a.test:1"),
        ("*.a.test", "", "xa.test *.xa.test 1.2.3.4"),
        ("1.2.3.4:80", "1.2.3.4:80 [::ffff:1.2.3.4]:80", "1.2.3.4 1.2.3.5:80"),
    ] {
        let asked = |entry: &str| network(&[wider], &[]).covers(&network(&[entry], &[])).is_ok();
        assert!(yes.split(' ').filter(|e| !e.is_empty()).all(asked), "{wider} covers {yes}");
        for entry in no.split(' ') {
            assert!(!asked(entry), "{wider} does not cover {entry}");
        }
    }
    assert!(env(&["OACP_*"]).covers(&env(&["OACP_A", "OACP_B*"])).is_ok());
    let beyond = env(&["OACP_*"]).covers(&env(&["OACP_A", "AWS_*"])).unwrap_err();
    assert_eq!((beyond.capability, beyond.wanted.as_str()), (Capability::Env, "AWS_*"));
    assert_eq!(beyond.code(), "capability_not_grantable");
    assert!(beyond.to_string().starts_with("env `AWS_*` is beyond"), "{beyond}");
    // Leave to read is none to write, and an empty grant is within every other.
    let write = Capabilities { file_write: owned(&["/a"]), ..Capabilities::default() };
    assert!(read(&["/a"]).covers(&write).is_err());
    assert!(Capabilities::default().covers(&Capabilities::default()).is_ok());
    // A denylist only takes away.
    assert!(network(&["a.test"], &["10.0.0.0/8"]).covers(&network(&[], &["11.0.0.0/8"])).is_ok());
}

#[test]
fn grants_are_put_together() {
    let ceiling = network(&["*.a.test"], &["10.0.0.0/8"]);
    let granted = network(&["b.a.test"], &["11.0.0.0/8"]).within(&ceiling).unwrap();
    assert_eq!(granted, network(&["b.a.test"], &["10.0.0.0/8", "11.0.0.0/8"]));
    assert!(network(&["a.test"], &[]).within(&ceiling).is_err());
    let (a, b) = (read(&["/b", "/a/*"]), read(&["/a/x", "/c"]));
    assert_eq!(a.union(&b), read(&["/a/*", "/a/x", "/b", "/c"]));
    assert_eq!(a.intersection(&b), read(&["/a/x"]));
    let denied = network(&["a.test"], &["10.0.0.0/8"]).intersection(&network(&["a.test"], &[]));
    assert_eq!(denied, network(&["a.test"], &["10.0.0.0/8"]));
    assert!(Capabilities::default().is_none() && !a.is_none());
    // The digest is of the canonical JSON, and `parse` makes one form of one grant.
    let given = read(&["/b", "/a", "/b"]).parse().unwrap();
    assert_eq!(given, read(&["/a", "/b"]));
    let form = br#"{"file_read":["/a","/b"]}"#;
    assert_eq!(given.digest(), kernel::values::Digest::of(form));
    assert_eq!(Capabilities::default().digest(), kernel::values::Digest::of(b"{}"));
}

/// Globs of a small alphabet, so that many of them meet.
fn globs() -> impl Strategy<Value = String> {
    let name = prop::collection::vec(
        prop_oneof![
            3 => Just("a"), 2 => Just("b"), 2 => Just("*"), 1 => Just("?"), 1 => Just("[ab]"),
            1 => Just("[!a]")
        ],
        1..4,
    );
    let part = prop_oneof![4 => name.prop_map(|parts| parts.concat()), 1 => Just("**".to_owned())];
    prop::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]{1,4}", 1..5).prop_map(|names| format!("/{}", names.join("/")))
}

/// Says whether a glob matches by trying every way, in place of a clever one.
fn matches_slowly(glob: &[&str], names: &[&str]) -> bool {
    fn name(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', rest @ ..], text) => (0..=text.len()).any(|at| name(rest, &text[at..])),
            ([b'?', rest @ ..], [_, text @ ..]) => name(rest, text),
            ([b'[', b'!', no, b']', rest @ ..], [c, text @ ..]) => no != c && name(rest, text),
            ([b'[', x, y, b']', rest @ ..], [c, text @ ..]) => {
                (x == c || y == c) && name(rest, text)
            }
            ([p, rest @ ..], [c, text @ ..]) => p == c && name(rest, text),
            (_, []) => false,
        }
    }
    match (glob, names) {
        ([], names) => names.is_empty(),
        (["**"], names) => !names.is_empty(),
        (["**", rest @ ..], names) => {
            (0..=names.len()).any(|at| matches_slowly(rest, &names[at..]))
        }
        ([first, rest @ ..], [n, names @ ..]) => {
            name(first.as_bytes(), n.as_bytes()) && matches_slowly(rest, names)
        }
        (_, []) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_covered_matches_nothing_more(wider in globs(), asked in globs(), path in paths()) {
        if let (Ok(wider), Ok(asked)) = (Glob::parse(&wider), Glob::parse(&asked)) {
            prop_assert!(wider.covers(&wider));
            if wider.covers(&asked) && asked.matches(&path) {
                prop_assert!(wider.matches(&path));
            }
        }
    }

    #[test]
    fn globs_match_as_a_slow_reading_says(glob in globs(), path in paths()) {
        if let Ok(parsed) = Glob::parse(&glob) {
            let parts: Vec<&str> = glob[1..].split('/').collect();
            let names: Vec<&str> = path[1..].split('/').collect();
            prop_assert_eq!(parsed.matches(&path), matches_slowly(&parts, &names));
        }
    }

    #[test]
    fn what_is_named_is_covered_as_it_is_matched(wider in globs(), path in paths()) {
        // A path is a glob without wildcards.
        if let Ok(wider) = Glob::parse(&wider) {
            prop_assert_eq!(wider.covers(&Glob::parse(&path).unwrap()), wider.matches(&path));
        }
    }

    #[test]
    fn no_text_breaks_a_grant(text in ".{0,40}", other in ".{0,40}") {
        let given = Capabilities {
            file_read: vec![text.clone()],
            file_write: vec![other.clone()],
            network: Network { allowlist: vec![text.clone()], denylist: vec![other.clone()] },
            env: vec![text.clone()],
        };
        let valid = given.validate().is_ok();
        prop_assert_eq!(given.clone().parse().is_ok(), valid);
        prop_assert!(!given.may_read(&other) || text.starts_with('/'));
        let _ = (given.may_env(&other), given.network.allows(&other, 443), given.digest());
    }

    #[test]
    fn hosts_that_are_covered_are_allowed(
        wider in r"(\*\.)?([ab]\.){0,2}t",
        asked in r"(\*\.)?([ab]\.){0,3}t",
        host in r"([ab]\.){0,4}t",
    ) {
        let (wider, asked) = (network(&[&wider], &[]), network(&[&asked], &[]));
        if wider.covers(&asked).is_ok() && asked.network.allows(&host, 443) {
            prop_assert!(wider.network.allows(&host, 443));
        }
    }
}
