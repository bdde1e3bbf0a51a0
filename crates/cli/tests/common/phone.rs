//! A phone with an authenticator app: it computes codes as RFC 6238 says.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use client::Client;
use proto::me::{ConfirmTotpRequest, EnrollTotpRequest, factor::State};
use tokio::time::sleep;

use super::LOOK_EVERY;

/// The phone of one user, whose second factor is confirmed.
pub(crate) struct Phone {
    secret: Vec<u8>,
    last: u64,
}

fn step() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 30
}

/// The bytes of a text in base32.
fn base32(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digit = |c| u64::try_from(alphabet.find(c).unwrap()).unwrap();
    let bits: String = text.chars().map(|c| format!("{:05b}", digit(c))).collect();
    let whole = bits.as_bytes().chunks_exact(8);
    whole.map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 2).unwrap()).collect()
}

impl Phone {
    /// Enrolls and confirms a second factor of `who`.
    pub(crate) async fn of(who: &Client) -> Self {
        let made = who.enroll_totp(&EnrollTotpRequest {}, None).await.unwrap();
        let mut phone = Self { secret: base32(&made.secret), last: 0 };
        assert_eq!(phone.secret.len(), 20);
        loop {
            // The code of now, so that the next one need not be waited for.
            phone.last = step();
            let request = ConfirmTotpRequest { code: phone.again() };
            let confirmed = who.confirm_totp(&request, None).await;
            if confirmed.is_ok() || !phone.over() {
                assert_eq!(confirmed.unwrap().state(), State::Confirmed);
                return phone;
            }
            // It took so long that the server was right to refuse the code.
        }
    }

    fn at(&self, counter: u64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.secret);
        let tag = hmac::sign(&key, &counter.to_be_bytes());
        let tag = tag.as_ref();
        let offset = usize::from(tag[19] & 15);
        let word = u32::from_be_bytes(tag[offset..offset + 4].try_into().unwrap());
        format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
    }

    /// A code that was not given before, and that the server takes for a whole minute at least:
    /// it takes the code of the step before and of the next step too.
    pub(crate) async fn code(&mut self) -> String {
        while self.last > step() {
            sleep(LOOK_EVERY).await;
        }
        self.last = step() + 1;
        self.again()
    }

    /// Whether the time of the code that was given last is over.
    fn over(&self) -> bool {
        step() > self.last + 1
    }

    /// The code that was given last, or one that was not given before where less than half a minute
    /// of its time is left.
    pub(crate) async fn still(&mut self) -> String {
        if step() > self.last { self.code().await } else { self.again() }
    }

    /// What was `refused` is the code that was given last and is used up. Only when its time is
    /// over, the server may have forgotten that it ever was one.
    #[track_caller]
    pub(crate) fn assert_replayed(&self, refused: (u16, String), why: &str) {
        let forgotten = self.over() && refused.1 == "step_up_failed";
        assert!(forgotten || refused == (403, "step_up_replayed".to_owned()), "{why}: {refused:?}");
    }

    /// The code that was given last.
    pub(crate) fn again(&self) -> String {
        self.at(self.last)
    }

    /// What is no code now, nor soon.
    pub(crate) fn wrong(&self) -> String {
        let right: Vec<String> = (0..20).map(|n| self.at(step() + n - 5)).collect();
        let mut numbers = (0..).map(|number: u32| format!("{number:06}"));
        numbers.find(|number| !right.contains(number)).unwrap()
    }
}
