//! Host names that a test answers for: a name server of its own, and a mount namespace in which the
//! resolver of the system asks that one and no other.
//!
//! glibc asks at port 53 and nowhere else, so the name server is at that port of a loopback address
//! that nobody else has.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::namespace::Namespace;

/// Puts the two files in `$1` in place of the system's.
const MOUNT: &str = r#"mount --bind "$1/resolv.conf" /etc/resolv.conf && {
    ! test -e /etc/nsswitch.conf || mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf; }"#;

/// Types of records.
const A: u16 = 1;
const AAAA: u16 = 28;
/// Bytes of a question without options, at most.
const MESSAGE_BYTES: usize = 512;
/// Bytes before the question.
const HEAD: usize = 12;

/// How often each name was asked for, by the type of record.
type Asked = Arc<Mutex<HashMap<(String, u16), usize>>>;

/// The names.
pub(crate) struct Names {
    namespace: Namespace,
    asked: Asked,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl Names {
    /// Each name with its answers in turn, the last of which stays. An answer is addresses with
    /// spaces between, and nobody may keep it (its time to live is 0).
    pub(crate) fn new(names: &[(&str, &[&str])]) -> Self {
        let read = |answer: &&str| answer.split(' ').map(|ip| ip.parse().unwrap()).collect();
        let read = |answers: &[&str]| answers.iter().map(read).collect();
        let script: Script =
            names.iter().map(|(name, answers)| ((*name).to_owned(), read(answers))).collect();
        let socket = socket();
        let address = socket.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Patience on a busy machine: a question that is repeated is a further one.
        let resolver =
            format!("nameserver {}\nsearch .\noptions timeout:30 attempts:1\n", address.ip());
        fs::write(folder.path().join("resolv.conf"), resolver).unwrap();
        fs::write(folder.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
        let namespace = Namespace::mounted(MOUNT, &[folder.path().as_os_str()]);
        let asked = Asked::default();
        let counted = asked.clone();
        let serving = Some(thread::spawn(move || serve(&socket, &script, &counted)));
        Self { namespace, asked, address, serving }
    }

    /// What a command begins with that is to see these names.
    pub(crate) fn enter(&self) -> Vec<String> {
        self.namespace.enter()
    }

    /// How often a name was looked up: each time is one question for either kind of address.
    pub(crate) fn looked_up(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        let [four, six] = [A, AAAA].map(|kind| asked.get(&(name.to_owned(), kind)).copied());
        assert_eq!(four, six, "{name}: {asked:?}");
        four.unwrap_or_default()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // An empty message ends it.
        let sent = UdpSocket::bind("127.0.0.1:0").and_then(|own| own.send_to(&[], self.address));
        if let (Ok(_), Some(serving)) = (sent, self.serving.take()) {
            let _ended = serving.join();
        }
    }
}

fn socket() -> UdpSocket {
    let first = std::process::id();
    for nth in 0..64_u32 {
        let [_, _, high, low] = first.wrapping_add(nth << 8).to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
        match UdpSocket::bind((address, 53)) {
            Ok(socket) => return socket,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!(
                "this test answers for names at port 53 of {address}: {error}. Run it as root, or \
                 have `sysctl net.ipv4.ip_unprivileged_port_start=53`"
            ),
        }
    }
    panic!("port 53 of 64 loopback addresses is in use");
}

/// The answers to each name, in turn.
type Script = BTreeMap<String, Vec<Vec<IpAddr>>>;

fn serve(socket: &UdpSocket, script: &Script, asked: &Asked) {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        let (len, from) = socket.recv_from(&mut message).unwrap();
        if len == 0 {
            return;
        }
        let answer = answer(&message[..len], script, asked);
        // Whoever asked may be gone.
        let _sent = socket.send_to(&answer, from);
    }
}

/// The answer to a message with one question.
fn answer(message: &[u8], script: &Script, asked: &Asked) -> Vec<u8> {
    let (mut at, mut labels) = (HEAD, Vec::new());
    while message[at] > 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
    let (question, name) = (&message[HEAD..at + 5], labels.join("."));
    let nth = {
        let mut asked = asked.lock().unwrap();
        let times = asked.entry((name.clone(), kind)).or_default();
        *times += 1;
        *times - 1
    };
    let found = script.get(&name).map(|turns| &turns[nth.min(turns.len() - 1)]);
    let records: Vec<Vec<u8>> =
        found.into_iter().flatten().filter_map(|ip| record(*ip, kind)).collect();
    // An answer, recursion desired and available; no error, or no such name.
    let failed = if found.is_some() { 0 } else { 3 };
    let mut reply = vec![message[0], message[1], 0x81, 0x80 | failed, 0, 1, 0];
    reply.push(u8::try_from(records.len()).unwrap());
    reply.extend([0; 4]);
    reply.extend(question);
    reply.extend(records.concat());
    reply
}

/// A record of this type for the name in the question, where the address is of it.
fn record(ip: IpAddr, kind: u16) -> Option<Vec<u8>> {
    let bytes = match (ip, kind) {
        (IpAddr::V4(ip), A) => ip.octets().to_vec(),
        (IpAddr::V6(ip), AAAA) => ip.octets().to_vec(),
        _ => return None,
    };
    let [high, low] = kind.to_be_bytes();
    let mut record = vec![0xc0, 0x0c, high, low, 0, 1, 0, 0, 0, 0, 0];
    record.push(u8::try_from(bytes.len()).unwrap());
    record.extend(bytes);
    Some(record)
}
