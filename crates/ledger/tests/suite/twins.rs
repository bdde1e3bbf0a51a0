//! Both engines are asked the same, and must answer the same.

use ::ledger::store::{
    Class, Commit, ContentKeyRow, ContentRow, EntityRow, Head, HeadUpdate, Page, ReceiptRow,
    SideRow, Store, TreeHash,
};
use kernel::ids::{TenantId, WorkspaceId};
use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::tree::Frontier;
use kernel::values::{Digest, Timestamp};
use proptest::prelude::*;

use crate::support::*;

/// What SQL, shells, Unicode and C make of strings.
const HOSTILE: [&str; 26] = [
    "'; DROP TABLE receipt; --",
    "' OR '1'='1",
    "\" OR \"\"=\"",
    "1; DELETE FROM entity WHERE 1=1",
    "$1",
    "$$; SELECT 1; $$",
    "$tag$x$tag$",
    "\\'; DROP TABLE blob; --",
    "E'\\x27'",
    "%' OR tenant LIKE '%",
    "_",
    "~",
    "acme' UNION SELECT * FROM content --",
    "/* */ */",
    "-- ",
    "?1 :name @name",
    "BYTES TEXT THE_SCHEMA",
    "tally.tenant",
    "',now()); ROLLBACK; --",
    "\u{202e}acme",
    "e\u{301}",
    "\u{e9}",
    "ı İ ß",
    "\u{10ffff}",
    "\n\r\t",
    "",
];

fn head(size: u64) -> Head {
    let mut frontier = Frontier::default();
    (0..size).for_each(|i| frontier.push(Digest::of(&i.to_be_bytes())));
    let checkpoint = format!("checkpoint {size}");
    Head { prev: Digest::of(&size.to_be_bytes()), time: Timestamp(7), frontier, checkpoint }
}

fn of(tenant: u8, log: u8) -> LogId {
    let tenant = TenantId::new(format!("tenant-{tenant}")).unwrap();
    LogId::Workspace(tenant, WorkspaceId::new(format!("log-{log}")).unwrap())
}

fn entity(log: LogId, id: &str, version: u64, due_at: Option<i64>) -> EntityRow {
    let status = if version.is_multiple_of(2) { "open" } else { "closed" }.to_owned();
    let stream = Stream::new(Kind::Action, id);
    let due_at = due_at.map(Timestamp);
    EntityRow { log, stream, version, status, due_at, body: format!("{{\"v\":{version}}}") }
}

fn content(tenant: &str, id: &str, day: i64, byte: u8) -> SideRow {
    let sealed = vec![byte; usize::from(byte)];
    let (tenant, id) = (tenant.to_owned(), id.to_owned());
    SideRow::Content(ContentRow { tenant, id, part: "body", class: Class::Result, day, sealed })
}

/// The ids that `hostile_strings_are_kept_verbatim_or_refused` stores, the highest first.
fn ids_downwards() -> Vec<String> {
    let mut ids = [&HOSTILE[..], &["bystander"]].concat();
    ids.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
    ids.into_iter().map(str::to_owned).collect()
}

/// Every id of a log's actions, as page after page tells them.
fn paged(store: &dyn Store, log: &LogId) -> Vec<String> {
    let mut page = Page { before: None, status: None, limit: 4 };
    let mut ids = Vec::new();
    loop {
        let rows = store.entities(log, Kind::Action, &page).unwrap();
        let Some(last) = rows.last() else { return ids };
        page.before = Some(last.stream.id.to_string());
        ids.extend(rows.into_iter().map(|row| row.stream.id.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_strings_are_kept_verbatim_or_refused() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let place = Place::new(engine);
        let store = place.store();
        let epoch = store.acquire().unwrap();
        let log = of(0, 0);
        let bystander = entity(log.clone(), "bystander", 1, None);
        let first = Commit {
            epoch,
            entities: vec![bystander.clone()],
            side: vec![content("tenant-0", "bystander", 1, 9)],
            ..Commit::default()
        };
        store.commit(&first).unwrap();
        for (n, text) in HOSTILE.iter().enumerate() {
            let byte = u8::try_from(n).unwrap();
            let blob = SideRow::Blob {
                tenant: (*text).to_owned(),
                digest: Digest::of(text.as_bytes()),
                bytes: text.as_bytes().to_vec(),
            };
            let key = SideRow::ContentKey(ContentKeyRow {
                tenant: (*text).to_owned(),
                class: Class::Result,
                day: 1,
                wrapped: vec![byte],
            });
            let commit = Commit {
                epoch,
                entities: vec![EntityRow {
                    status: (*text).to_owned(),
                    body: (*text).to_owned(),
                    ..entity(log.clone(), text, 2, None)
                }],
                side: vec![content(text, text, 1, byte), blob, key],
                ..Commit::default()
            };
            store.commit(&commit).unwrap();
        }
        for (n, text) in HOSTILE.iter().enumerate() {
            let found = store.entity(&log, &Stream::new(Kind::Action, text)).unwrap().unwrap();
            assert_eq!((found.body.as_str(), found.status.as_str()), (*text, *text), "{engine:?}");
            let kept = store.content(text, text, "body").unwrap().unwrap();
            assert_eq!((kept.sealed.len(), kept.tenant.as_str()), (n, *text), "{engine:?}");
            let digest = Digest::of(text.as_bytes());
            assert_eq!(store.blob(text, digest).unwrap().unwrap(), text.as_bytes());
            let byte = u8::try_from(n).unwrap();
            assert_eq!(store.content_key(text, Class::Result, 1).unwrap(), Some(vec![byte]));
            let page = Page { before: None, status: Some((*text).to_owned()), limit: 100 };
            let found = store.entities(&log, Kind::Action, &page).unwrap();
            // No status, the empty one, asks for all of them.
            let expected = if text.is_empty() { HOSTILE.len() } else { 1 };
            assert!(found.len() >= expected, "{engine:?} {text:?}: {found:?}");
        }
        assert_eq!(paged(&*store, &log), ids_downwards(), "{engine:?}");
        // What no engine keeps is refused by both, and is nowhere to be read.
        let nul = "acme\0";
        let commit = Commit { epoch, side: vec![content(nul, "x", 1, 1)], ..Commit::default() };
        assert!(matches!(store.commit(&commit), Err(::ledger::Error::Invalid(_))), "{engine:?}");
        let entities = vec![entity(log.clone(), nul, 1, None)];
        let commit = Commit { epoch, entities, ..Commit::default() };
        assert!(matches!(store.commit(&commit), Err(::ledger::Error::Invalid(_))), "{engine:?}");
        assert_eq!(store.content(nul, nul, "body").unwrap(), None);
        assert_eq!(store.entity(&log, &Stream::new(Kind::Action, nul)).unwrap(), None);

        let all = store.scan(&log, None, 1000).unwrap();
        assert_eq!(all.len(), HOSTILE.len() + 1, "{engine:?}");
        assert!(all.contains(&bystander));
        let kept = store.content("tenant-0", "bystander", "body").unwrap().unwrap();
        assert_eq!(kept.sealed, [9; 9]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_that_is_there_already_fails_the_whole_commit() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let place = Place::new(engine);
        let store = place.store();
        let epoch = store.acquire().unwrap();
        let log = of(0, 0);
        let begun = |id: &str, version| Commit {
            epoch,
            created: vec![entity(log.clone(), id, version, None)],
            side: vec![content("tenant-0", id, 1, u8::try_from(version).unwrap())],
            ..Commit::default()
        };
        store.commit(&begun("act-1", 1)).unwrap();
        let mut again = begun("act-2", 2);
        again.created.push(entity(log.clone(), "act-1", 9, None));
        let refused = store.commit(&again).unwrap_err();
        assert!(matches!(refused, ::ledger::Error::Store(_)), "{engine:?}: {refused:?}");
        let stored = store.scan(&log, None, 10).unwrap();
        assert_eq!(stored, [entity(log.clone(), "act-1", 1, None)], "{engine:?}");
        assert!(store.content("tenant-0", "act-2", "body").unwrap().is_none(), "{engine:?}");
        // The writer is as good as before.
        store.commit(&begun("act-3", 3)).unwrap();
    }
}

/// One thing to ask a store.
#[derive(Clone, Debug)]
enum Op {
    Append(u8, u8, u8),
    /// A head that is not where the commit expects it.
    Stray(u8, u8, u64),
    Entities(u8, u8, Vec<(u8, u64, Option<i64>)>),
    Side(u8, Vec<(u8, i64, u8)>),
    Destroy(i64),
    Replace(u8, u8, Vec<u8>),
    OldEpoch(u8),
    Acquire,
}

fn op() -> impl Strategy<Value = Op> {
    let row = (0..6_u8, 1..9_u64, prop::option::of(0..50_i64));
    prop_oneof![
        4 => (0..2_u8, 0..2_u8, 1..5_u8).prop_map(|(t, l, n)| Op::Append(t, l, n)),
        1 => (0..2_u8, 0..2_u8, 0..9_u64).prop_map(|(t, l, n)| Op::Stray(t, l, n)),
        3 => (0..2_u8, 0..2_u8, prop::collection::vec(row, 1..6))
            .prop_map(|(t, l, rows)| Op::Entities(t, l, rows)),
        3 => (0..2_u8, prop::collection::vec((0..5_u8, 0..4_i64, 0..9_u8), 1..8))
            .prop_map(|(t, rows)| Op::Side(t, rows)),
        1 => (0..5_i64).prop_map(Op::Destroy),
        1 => (0..2_u8, 0..2_u8, prop::collection::vec(0..6_u8, 0..4))
            .prop_map(|(t, l, ids)| Op::Replace(t, l, ids)),
        1 => (0..2_u8).prop_map(Op::OldEpoch),
        1 => Just(Op::Acquire),
    ]
}

/// A store and what its writer knows.
struct Twin {
    _place: Place,
    store: std::sync::Arc<dyn Store>,
    epoch: u64,
}

impl Twin {
    fn new(engine: Engine) -> Self {
        let place = Place::new(engine);
        let store = place.store();
        let epoch = store.acquire().unwrap();
        Self { _place: place, store, epoch }
    }

    fn size(&self, log: &LogId) -> u64 {
        self.store.head(log).unwrap().map_or(0, |head| head.frontier.size())
    }

    /// Does it, and says what came of it.
    fn does(&mut self, op: &Op) -> String {
        let mut commit = Commit { epoch: self.epoch, ..Commit::default() };
        match op {
            Op::Append(tenant, name, count) => {
                let log = of(*tenant, *name);
                let old = self.size(&log);
                let size = old + u64::from(*count);
                for index in old..size {
                    let envelope = format!("{log:?} {index}").into_bytes();
                    let leaf = Digest::of(&envelope);
                    commit.receipts.push(ReceiptRow { log: log.clone(), index, envelope, leaf });
                    let hash = leaf;
                    let level = 1;
                    commit.hashes.push(TreeHash { log: log.clone(), level, index, hash });
                }
                commit.heads.push(HeadUpdate { log, old_size: old, head: head(size) });
            }
            Op::Stray(tenant, name, by) => {
                let log = of(*tenant, *name);
                let old_size = self.size(&log) + 1 + by;
                let receipt = b"must not be there".to_vec();
                let leaf = Digest::of(&receipt);
                let index = 1_000 + by;
                commit.receipts.push(ReceiptRow {
                    log: log.clone(),
                    index,
                    envelope: receipt,
                    leaf,
                });
                commit.heads.push(HeadUpdate { log, old_size, head: head(old_size + 1) });
                // It ends a writer; the next one begins anew.
                let ended = self.store.commit(&commit);
                return format!("{ended:?} {}", self.begins_again());
            }
            Op::Entities(tenant, name, rows) => {
                let row = |(id, version, due): &(u8, u64, Option<i64>)| {
                    entity(of(*tenant, *name), &format!("act-{id}"), *version, *due)
                };
                commit.entities = rows.iter().map(row).collect();
            }
            Op::Side(tenant, rows) => {
                let tenant = format!("tenant-{tenant}");
                commit.side = rows.iter().map(|row| side(&tenant, *row)).collect();
            }
            Op::Destroy(day) => {
                return format!("{:?}", self.store.destroy_content(Class::Result, *day));
            }
            Op::Replace(tenant, name, ids) => {
                let log = of(*tenant, *name);
                let mut rows = ids.iter().map(|id| {
                    let id = format!("act-{id}");
                    entity(log.clone(), &id, 1, None)
                });
                return format!("{:?}", self.store.replace_entities(&log, &mut rows));
            }
            Op::OldEpoch(tenant) => {
                commit.epoch -= 1;
                commit.side.push(content(&format!("tenant-{tenant}"), "old", 1, 1));
                let ended = self.store.commit(&commit);
                return format!("{ended:?} {}", self.begins_again());
            }
            Op::Acquire => return self.begins_again(),
        }
        format!("{:?}", self.store.commit(&commit))
    }

    fn begins_again(&mut self) -> String {
        self.epoch = self.store.acquire().unwrap();
        format!("epoch {}", self.epoch)
    }

    /// Everything that can be read.
    fn shows(&self) -> String {
        let store = self.store.as_ref();
        let mut all = vec![format!("{:?}", store.logs())];
        for now in [0, 20, 100] {
            // Those that are due at the same time come in any order.
            let mut due = store.due(Timestamp(now), 100).unwrap();
            due.sort();
            all.push(format!("{due:?}"));
        }
        all.push(format!("{:?}", store.next_due()));
        for (tenant, name) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let log = of(tenant, name);
            all.push(format!("{:?} {:?}", store.head(&log), store.receipts(&log, 1, 5)));
            all.push(format!(
                "{:?} {:?}",
                store.hashes(&log, 0, 0, 9),
                store.hashes(&log, 1, 2, 3)
            ));
            all.push(format!("{:?}", store.scan(&log, None, 100)));
            let after = Stream::new(Kind::Action, "act-2");
            all.push(format!("{:?}", store.scan(&log, Some(&after), 2)));
            for status in [None, Some("open".to_owned())] {
                let page = Page { before: Some("act-4".to_owned()), status, limit: 3 };
                all.push(format!("{:?}", store.entities(&log, Kind::Action, &page)));
            }
        }
        for tenant in ["tenant-0", "tenant-1"] {
            for id in 0..5 {
                all.push(format!("{:?}", store.content(tenant, &format!("act-{id}"), "body")));
                let day = i64::from(id);
                all.push(format!("{:?}", store.content_key(tenant, Class::Result, day)));
                all.push(format!("{:?}", store.blob(tenant, Digest::of(&[id]))));
            }
        }
        all.join("\n")
    }
}

fn side(tenant: &str, (id, day, what): (u8, i64, u8)) -> SideRow {
    let name = format!("act-{id}");
    let tenant = tenant.to_owned();
    match what {
        0..=3 => content(&tenant, &name, day, what),
        4 | 5 => SideRow::DropContent { tenant, id: name, part: "body" },
        6 | 7 => {
            let wrapped = vec![what; 3];
            SideRow::ContentKey(ContentKeyRow { tenant, class: Class::Result, day, wrapped })
        }
        _ => SideRow::Blob { tenant, digest: Digest::of(&[id]), bytes: vec![what, id] },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_answer_alike(ops in prop::collection::vec(op(), 1..40)) {
        let (mut sqlite, mut postgres) = (Twin::new(Engine::Sqlite), Twin::new(Engine::Postgres));
        for op in &ops {
            prop_assert_eq!(sqlite.does(op), postgres.does(op), "{:?}", op);
        }
        prop_assert_eq!(sqlite.shows(), postgres.shows());
    }
}
