//! Processes that a test starts: what they say and how they end. Neither is waited for without end.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::LOOK_EVERY;

/// A process that says nothing for so long, or does not end, hangs.
const HANGS: Duration = Duration::from_secs(120);

/// What a process says first. One that says nothing is killed.
pub(crate) fn first_line(process: &mut Child) -> String {
    let said = line(&mut BufReader::new(process.stdout.as_mut().unwrap()));
    said.unwrap_or_else(|| {
        let stuck = threads(process.id());
        process.kill().unwrap();
        panic!("{} says nothing for {HANGS:?}:\n{stuck}", process.id())
    })
}

/// The next line, empty at the end; `None` where none comes.
pub(crate) fn line(output: &mut BufReader<impl Read + AsFd>) -> Option<String> {
    if output.buffer().is_empty() {
        let end = Timespec { tv_sec: HANGS.as_secs().try_into().unwrap(), tv_nsec: 0 };
        let mut ready = [PollFd::new(output.get_ref(), PollFlags::IN)];
        // A child that ends elsewhere interrupts it.
        if retry_on_intr(|| poll(&mut ready, Some(&end))).unwrap() == 0 {
            return None;
        }
    }
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    Some(line)
}

/// How a process ends that was told to. One that does not end is killed.
pub(crate) fn ended(process: &mut Child) -> ExitStatus {
    let until = Instant::now() + HANGS;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            let stuck = threads(process.id());
            process.kill().unwrap();
            panic!("{} does not end in {HANGS:?}:\n{stuck}", process.id());
        }
        sleep(LOOK_EVERY);
    }
}

/// Where each thread of a process waits.
fn threads(pid: u32) -> String {
    let mut text = String::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return "it is gone".to_owned();
    };
    for task in tasks.flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let (name, waits, call) = (read("comm"), read("wchan"), read("syscall"));
        writeln!(text, "{} in {waits}, call {}", name.trim(), call.trim()).unwrap();
    }
    text
}
