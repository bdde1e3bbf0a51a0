//! Reading rows. A row that does not read as what it should be means that the store is corrupt.

use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use crate::Error;
use crate::store::{Class, ContentRow, EntityRow, Head, ReceiptRow};

fn corrupt(error: impl std::fmt::Display) -> Error {
    Error::Corrupt(error.to_string())
}

/// A column of a row.
pub(super) fn get<T: FromSqlOwned>(row: &Row, column: usize) -> Result<T, Error> {
    row.try_get(column).map_err(corrupt)
}

pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64, Error> {
    u64::try_from(get::<i64>(row, column)?).map_err(corrupt)
}

pub(super) fn digest(row: &Row, column: usize) -> Result<Digest, Error> {
    let bytes: Vec<u8> = get(row, column)?;
    let bytes = bytes.try_into().map_err(|_| corrupt("a digest of another length"))?;
    Ok(Digest(bytes))
}

pub(super) fn kind(row: &Row, column: usize) -> Result<Kind, Error> {
    let name: String = get(row, column)?;
    Kind::parse(&name).ok_or_else(|| corrupt(format!("unknown kind `{name}`")))
}

pub(super) fn log_id(row: &Row, column: usize) -> Result<LogId, Error> {
    let (tenant, name): (String, String) = (get(row, column)?, get(row, column + 1)?);
    LogId::from_parts(&tenant, &name).map_err(corrupt)
}

pub(super) fn head(row: &Row) -> Result<Head, Error> {
    let frontier: String = get(row, 2)?;
    Ok(Head {
        prev: digest(row, 0)?,
        time: Timestamp(get(row, 1)?),
        frontier: serde_json::from_str(&frontier).map_err(corrupt)?,
        checkpoint: get(row, 3)?,
    })
}

/// The columns version, status, due_at and body, from `first` on.
pub(super) fn entity(
    log: &LogId,
    stream: Stream,
    row: &Row,
    first: usize,
) -> Result<EntityRow, Error> {
    Ok(EntityRow {
        log: log.clone(),
        stream,
        version: unsigned(row, first)?,
        status: get(row, first + 1)?,
        due_at: get::<Option<i64>>(row, first + 2)?.map(Timestamp),
        body: get(row, first + 3)?,
    })
}

pub(super) fn receipt(log: &LogId, row: &Row) -> Result<ReceiptRow, Error> {
    let (index, leaf) = (unsigned(row, 0)?, digest(row, 2)?);
    Ok(ReceiptRow { log: log.clone(), index, envelope: get(row, 1)?, leaf })
}

pub(super) fn content(
    tenant: &str,
    id: &str,
    part: &'static str,
    row: &Row,
) -> Result<ContentRow, Error> {
    let name: String = get(row, 0)?;
    let class = Class::ALL
        .into_iter()
        .find(|known| known.as_str() == name)
        .ok_or_else(|| corrupt(format!("unknown class `{name}`")))?;
    let (day, sealed) = (get(row, 1)?, get(row, 2)?);
    Ok(ContentRow { tenant: tenant.to_owned(), id: id.to_owned(), part, class, day, sealed })
}
