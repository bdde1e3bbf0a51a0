//! Tests that hang: who they are, told before they are ended, so that one of them costs minutes and
//! not the whole run.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Nothing that we run says nothing for so long.
const SILENCE: Duration = Duration::from_secs(600);

/// Runs `command`, giving each line of its output to `each`. Where none comes for too long, all
/// processes that it has started are told and killed; the command itself goes on.
pub(crate) fn watched(command: &mut Command, mut each: impl FnMut(&str)) -> Result<Child> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the command")?;
    let lines = lines_of(child.stdout.take().context("no output of the command")?);
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => each(&line?),
            Err(RecvTimeoutError::Disconnected) => return Ok(child),
            Err(RecvTimeoutError::Timeout) => end(&below(child.id())?)?,
        }
    }
}

fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<std::io::Result<String>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map(|line| String::from_utf8_lossy(&line).into_owned());
            // Whoever does not listen any more has ended.
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// A process, as Linux tells it.
#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
}

/// All processes, in the order of their ids.
fn all() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list the processes")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has ended meanwhile is none.
        let stat = fs::read_to_string(entry.path().join("stat")).ok();
        let parent = stat.as_deref().and_then(parent_in);
        found.extend(pid.zip(parent).map(|(pid, parent)| Process { pid, parent }));
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// The fourth field: the second is a name in parentheses, with anything in it.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The processes that `root` has started, and what those have.
fn below(root: u32) -> Result<Vec<u32>> {
    let all = all()?;
    let mut known = BTreeSet::from([root]);
    loop {
        let more: Vec<_> = all.iter().filter(|p| known.contains(&p.parent)).collect();
        let before = known.len();
        known.extend(more.iter().map(|process| process.pid));
        if known.len() == before {
            known.remove(&root);
            return Ok(known.into_iter().collect());
        }
    }
}

fn end(hanging: &[u32]) -> Result<()> {
    println!("== nothing was said for {SILENCE:?}; these are ended:");
    for pid in hanging {
        println!("{}", told(*pid));
    }
    let ids: Vec<_> = hanging.iter().map(u32::to_string).collect();
    Command::new("kill").arg("-KILL").args(ids).status().context("cannot start kill")?;
    Ok(())
}

/// The command of a process, and where its threads wait.
fn told(pid: u32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut text = format!("{pid}: {}", read("cmdline").replace('\0', " "));
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text += &format!("\n  {} in {}", read("comm").trim(), read("wchan"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{below, end, parent_in, watched};

    #[test]
    fn finds_and_ends_what_a_process_has_started() {
        let script = "sleep 1000 & sh -c 'sleep 1000; true'; wait";
        let mut shell = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let found = loop {
            let found = below(shell.id()).unwrap();
            if found.len() == 3 {
                break found;
            }
            std::thread::yield_now();
        };
        assert!(!found.contains(&shell.id()));
        end(&found).unwrap();
        assert!(shell.wait().unwrap().success(), "it was left alone, and what it waits for ended");
        assert!(below(shell.id()).unwrap().is_empty());
    }

    #[test]
    fn passes_on_what_is_said() {
        let mut said = Vec::new();
        let mut command = Command::new("sh");
        let command = command.args(["-c", "echo a; echo b; exit 3"]);
        let mut child = watched(command, |line| said.push(line.to_owned())).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(said, ["a", "b"]);
    }

    #[test]
    fn reads_the_parent_behind_any_name() {
        assert_eq!(parent_in("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12"), None);
    }
}
