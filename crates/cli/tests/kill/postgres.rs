//! The same on PostgreSQL: the server dies, or the database does.

use testkit::Cluster;

use super::{Random, World, crash, load, offline, rounds};
use crate::common::Server;
use crate::common::postgres::migrated;
use std::sync::Arc;

const ROUNDS: u32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_and_repeats_nothing() {
    let database = migrated(Cluster::shared());
    let (server, world) = World::start(Some(&database)).await;
    let server = rounds(server, &world, ROUNDS, async |server, world, random| {
        crash(server, world, random).await;
    });
    offline(server.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_loses_nothing_and_repeats_nothing() {
    let cluster = Cluster::start();
    let database = migrated(&cluster);
    let (server, world) = World::start(Some(&database)).await;
    let server = rounds(server, &world, ROUNDS, async |server, world, random| {
        crash_database(&cluster, server, world, random).await;
    });
    offline(server.await);
}

/// Puts load on the server and kills every process of its database in the middle. The server goes
/// on, refuses meanwhile, and serves again when the database does.
async fn crash_database(
    cluster: &Cluster,
    server: &Server,
    world: &Arc<World>,
    random: &mut Random,
) {
    let load = load::start(world, random);
    tokio::time::sleep(random.pause(1_000)).await;
    tokio::task::block_in_place(|| {
        cluster.crash();
        cluster.restart();
    });
    load.stop();
    load.end().await;
    server.ready().await;
}
