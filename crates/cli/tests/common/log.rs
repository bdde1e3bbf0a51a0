//! What a process writes to standard error.

use std::io::Read as _;
use std::process::ChildStderr;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often, and with which pause, it is looked whether the last of it was read.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// It is read to its end, so that the process never waits for a full pipe.
pub(crate) struct Log {
    said: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    /// That of the process before.
    before: Option<Box<Self>>,
}

impl Log {
    pub(crate) fn of(mut stderr: ChildStderr) -> Self {
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let kept = said.clone();
        let reader = thread::spawn(move || {
            let mut part = vec![0; 64 << 10];
            while let Ok(count @ 1..) = stderr.read(&mut part) {
                kept.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { said, reader: Some(reader), before: None }
    }

    /// All of it, once the process has ended, and all to whom it handed standard error on.
    pub(crate) fn whole(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.said.lock().unwrap().clone()
    }

    /// Another process takes the place of this one.
    pub(crate) fn goes_on_with(&mut self, next: Self) {
        let before = std::mem::replace(self, next);
        self.before = Some(Box::new(before));
    }

    /// What there is, of the processes before too. Of one that has ended it is all, unless others
    /// still write.
    pub(crate) fn so_far(&self) -> Vec<u8> {
        let read = || self.reader.as_ref().is_none_or(JoinHandle::is_finished);
        for _ in 0..LOOKS {
            if read() {
                break;
            }
            thread::sleep(PAUSE);
        }
        let mut all = self.before.as_ref().map(|log| log.so_far()).unwrap_or_default();
        all.extend(self.said.lock().iter().flat_map(|said| said.iter()));
        all
    }
}
