//! Measures the ledger: durable commits a second, then how fast the log they made is checked
//! against bare signature verification. `throughput [receipts] [tasks]`.

use std::sync::Arc;
use std::time::Instant;

use kernel::account::{Input as Money, Purpose};
use kernel::dsse;
use kernel::ids::{AccountId, TenantId, WorkspaceId};
use kernel::machine::{Command, Input, Kind};
use kernel::receipt::LogId;
use kernel::units::Units;
use kernel::values::{MicroUsd, Timestamp};
use kernel::verify::SignatureVerifier;
use ledger::keys::{FileKeys, KeyProvider, NativeVerifier, Purpose as KeyPurpose};
use ledger::rebuild::{rebuild, verify_log};
use ledger::sqlite::Sqlite;
use ledger::store::Store;
use ledger::{Batch, Ledger};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HOST: &str = "tally.example";

fn fund(id: &str) -> Result<Vec<Command>, Failure> {
    let (funds, to) = (AccountId::new("funds")?, AccountId::new(id)?);
    let amount = MicroUsd(1);
    let money = |id: &str, input| Command::new(Kind::Account, id, Input::Account(input));
    Ok(vec![
        money("funds", Money::Ensure { purpose: Purpose::Funding }),
        money(id, Money::Ensure { purpose: Purpose::Budget }),
        money("funds", Money::Debit { amount, units: Units::NONE, to }),
        money(id, Money::Credit { amount, units: Units::NONE, from: funds }),
    ])
}

async fn write(ledger: &Ledger, log: &LogId, each: u64, tasks: u64) -> Result<(), Failure> {
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let (ledger, log) = (ledger.clone(), log.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    ledger.commit(Batch::new(log.clone(), fund(&format!("acc-{task}"))?)).await?;
                }
                Ok::<(), Failure>(())
            })
        })
        .collect();
    for task in running {
        task.await??;
    }
    Ok(())
}

/// Bare verifications a second, on every processor.
fn raw(spki: &[u8], message: &[u8], signature: &[u8]) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                (0..5000).filter(|_| NativeVerifier.p256_sha256(spki, message, signature)).count()
            });
        }
    });
    5000.0 * threads as f64 / start.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let receipts: u64 = args.next().map_or(Ok(20_000), |text| text.parse())?;
    let tasks: u64 = args.next().map_or(Ok(64), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("tally-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let keys: Arc<dyn KeyProvider> = Arc::new(FileKeys::open(&dir.join("keys"))?);
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&dir.join("tally.db"))?);
    let clock = Arc::new(|| Timestamp(0));
    let ledger = Ledger::start(store.clone(), keys.clone(), clock, HOST)?;
    let log = LogId::Workspace(TenantId::new("acme")?, WorkspaceId::new("ops")?);

    let start = Instant::now();
    write(&ledger, &log, receipts / tasks, tasks).await?;
    println!("{:.0} commits/s by {tasks} tasks", receipts as f64 / start.elapsed().as_secs_f64());

    let row = store.receipts(&log, 0, 1)?.into_iter().next().ok_or("no receipt")?;
    let envelope = dsse::Envelope::parse(&row.envelope)?;
    let signer = keys.p256("acme", KeyPurpose::Receipt)?;
    let raw = raw(signer.spki_der(), &dsse::pae(&envelope.payload), &envelope.signature);
    let start = Instant::now();
    let report = verify_log(store.as_ref(), HOST, keys.as_ref(), &log)?;
    let rate = report.size as f64 / start.elapsed().as_secs_f64();
    println!("{} receipts of {} bytes", report.size, row.envelope.len());
    println!("{rate:.0} receipts/s checked; {raw:.0} signatures/s; ratio {:.2}", rate / raw);
    let start = Instant::now();
    let report = rebuild(store.as_ref(), &log)?;
    println!("{:.0} receipts/s rebuilt", report.size as f64 / start.elapsed().as_secs_f64());
    println!("{} errors", report.errors.len());
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
