//! Measures a decision by the baseline against the bare evaluation of the same input, on one and
//! on two threads: `cargo run --release -p policy --example decide`.

#![expect(clippy::unwrap_used, reason = "the tests' helpers fail loudly")]

#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use all of it")]
mod support;

use kernel::decision::{DecisionInput, DecisionPoint};
use kernel::json::RawJson;
use kernel::values::Digest;
use policy::{BareMachine, Config, bare_eval, baseline};
use std::hint::black_box;
use std::time::Instant;
use support::{Desk, Facts, bundle};

/// Parameters of a usual size, which no two actions share and so are read each time.
const PARAMS: &str = r#"{"method": "POST", "url": "https://api.example.com/v1/orders/17",
    "headers": {"accept": "application/json"}, "body": {"amount": 1200, "items": ["a", "b"]}}"#;
const ROUNDS: u32 = 2_000;
/// The jobs take turns, so that a busy neighbour slows all of them alike.
const TURNS: usize = 40;

fn micros(job: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    (0..ROUNDS).for_each(|_| job());
    start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

/// The median of all turns, for each job.
fn medians<const N: usize>(mut jobs: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut turns = [const { Vec::new() }; N];
    for _ in 0..TURNS {
        for (job, times) in jobs.iter_mut().zip(&mut turns) {
            times.push(micros(job));
        }
    }
    turns.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times.get(TURNS / 2).copied().unwrap_or_default()
    })
}

/// The same input at another time, as every real one is.
fn later<'a>(input: &mut DecisionInput<'a>) -> DecisionInput<'a> {
    input.now.epoch_us += 1;
    input.clone()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = baseline()?;
    let desk = Desk::new(&Config::default());
    desk.install(1, &source);
    let facts = Facts::new("prod", &["write", "external"]);
    let mut with_params = Facts::new("prod", &["write", "external"]);
    with_params.params = RawJson::parse(PARAMS)?;
    let (mut plain, mut full, mut fresh) = (facts.input(), with_params.input(), facts.input());
    let mut bare = BareMachine::new(&bundle(&source), &plain)?;
    let json = serde_json::to_vec(&plain)?;
    let [floor, whole, params, text, digest] = medians([
        &mut || assert_eq!(bare_eval(&mut bare), Ok(1)),
        &mut || drop(desk.point.decide(&later(&mut plain))),
        &mut || drop(desk.point.decide(&later(&mut full))),
        &mut || drop(serde_json::to_vec(&later(&mut fresh))),
        &mut || assert_ne!(black_box(Digest::of(black_box(&json))), Digest([0; 32])),
    ]);
    println!("bare {floor:.2} us");
    println!("decide {whole:.2} us, {:.2} x bare", whole / floor);
    println!("decide with parameters {params:.2} us, {:.2} x bare", params / floor);
    println!("by themselves: input as JSON {text:.2} us, SHA-256 of it {digest:.2} us");
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let facts = Facts::new("prod", &["write", "external"]);
                let mut input = facts.input();
                (0..50_000).for_each(|_| drop(desk.point.decide(&later(&mut input))));
            });
        }
    });
    let both = start.elapsed().as_secs_f64() * 1e6 / 100_000.0;
    println!("two threads: {both:.2} us a decision");
    Ok(())
}
