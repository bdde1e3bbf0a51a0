//! Whether the receipts of a period are those that the controls of a framework ask for.

mod facts;

use kernel::controls::{Catalog, Control, Coverage, Log, Met, log_of};
use kernel::dsse::Envelope;
use kernel::failure::{Category, Failure};
use kernel::limits as kernel_limits;
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use ledger::Ledger;
use proto::evidence::{
    ControlCoverage, CoverageGap, GetCoverageRequest, GetCoverageResponse, LogRange,
    RequirementCoverage,
};
use proto::wire::{Json, Timestamp as WireTimestamp};

use self::facts::{Facts, Told};
use super::period::index_at;
use crate::error::{Refused, Result};
use crate::ledger_api::size_of;
use crate::limits;
use crate::runtime::yaml;
use crate::shared::{Caller, Shared};

/// Receipts read at a time.
const PAGE: u32 = 512;
const DAY_MICROS: i64 = 86_400_000_000;
/// Why a text is no catalog.
const INVALID: &str = "catalog_invalid";
/// The catalogs that come along.
const SHIPPED: [(&str, &str); 3] = [
    ("soc2", include_str!("../../../../catalog/controls/soc2.yaml")),
    ("iso_42001", include_str!("../../../../catalog/controls/iso_42001.yaml")),
    ("eu_ai_act", include_str!("../../../../catalog/controls/eu_ai_act.yaml")),
];

/// The catalog of a text, or why it is none, with the line.
fn catalog(text: &str) -> Result<Catalog> {
    let catalog: Catalog = yaml::document(text, kernel_limits::CATALOG_BYTES_MAX, INVALID)?;
    catalog.check().map_err(|refused| {
        let failure = Failure::new(Category::Validation, INVALID, refused.to_string());
        Refused(yaml::with_line(text, &refused.place, failure))
    })?;
    Ok(catalog)
}

fn asked(wire: &GetCoverageRequest) -> Result<Catalog> {
    match (wire.framework.as_str(), wire.catalog.as_str()) {
        ("", "") => Err(Refused::invalid("name a framework, or send a catalog")),
        ("", text) => catalog(text),
        (name, "") => match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, text)) => catalog(text),
            None => {
                Err(Refused::invalid("framework: `soc2`, `iso_42001` or `eu_ai_act`; or a catalog"))
            }
        },
        _ => Err(Refused::invalid("name a framework or send a catalog, not both")),
    }
}

/// The period that a request asks for.
fn period(shared: &Shared, wire: &GetCoverageRequest) -> Result<(Timestamp, Timestamp)> {
    let time = |wire: &WireTimestamp| Timestamp(wire.micros());
    let until = wire.until.as_ref().map_or_else(|| shared.now(), time);
    let usual = until.plus_micros(-limits::COVERAGE_DAYS_DEFAULT * DAY_MICROS);
    let since = wire.since.as_ref().map_or(usual, time);
    let most = limits::COVERAGE_DAYS_MAX.saturating_mul(DAY_MICROS);
    if since >= until || until.0.saturating_sub(since.0) > most {
        return Err(Refused::invalid("since is before until, by at most 3660 days"));
    }
    Ok((since, until))
}

/// Looks at a period.
pub(super) fn coverage(
    shared: &Shared,
    caller: &Caller,
    wire: &GetCoverageRequest,
) -> Result<GetCoverageResponse> {
    let catalog = asked(wire)?;
    let (since, until) = period(shared, wire)?;
    let mut coverage = Coverage::new(&catalog, since, until);
    let mut logs = Vec::new();
    let sources = [
        (Log::Workspace, caller.log(), &shared.ledger),
        (Log::Control, caller.control_log(), &shared.control.ledger),
    ];
    for (kind, log, ledger) in sources {
        let wanted = catalog.controls.iter().flat_map(|control| &control.requires);
        let mut wanted = wanted.flat_map(|requirement| &requirement.receipts);
        if !wanted.any(|change| log_of(change) == Some(kind)) {
            continue;
        }
        let size = size_of(ledger, &log)?;
        let from = index_at(ledger, &log, size, since)?;
        let to = index_at(ledger, &log, size, until)?;
        look(ledger, &log, (from, to), &mut coverage)?;
        let origin = log.origin(shared.ledger.host());
        logs.push(LogRange { origin, from_index: from, to_index: to });
    }
    let controls: Vec<ControlCoverage> =
        coverage.met().into_iter().map(|(c, met)| control(c, met)).collect::<Result<_>>()?;
    let covered = controls.iter().filter(|control| control.covered).count();
    Ok(GetCoverageResponse {
        framework: catalog.metadata.name.clone(),
        title: catalog.metadata.title.clone(),
        version: catalog.metadata.version.clone(),
        since: Some(WireTimestamp::from_micros(since.0)),
        until: Some(WireTimestamp::from_micros(until.0)),
        logs,
        covered: u32::try_from(covered).unwrap_or(u32::MAX),
        controls,
    })
}

/// Reads the receipts `from` to `to`.
fn look(
    ledger: &Ledger,
    log: &LogId,
    (from, to): (u64, u64),
    coverage: &mut Coverage<'_>,
) -> Result<()> {
    if to - from > limits::COVERAGE_RECEIPTS_MAX {
        let (has, most) = (to - from, limits::COVERAGE_RECEIPTS_MAX);
        let message = format!(
            "the period has {has} receipts of {}, at most {most} are read at once: ask for less",
            log.name()
        );
        return Err(Refused::invalid(message));
    }
    let mut facts = Facts::new(ledger, log);
    let mut next = from;
    while next < to {
        let count = u32::try_from(to - next).unwrap_or(PAGE).min(PAGE);
        let rows = ledger.store().receipts(log, next, count)?;
        let Some(last) = rows.last() else { break };
        next = last.index.saturating_add(1);
        for row in &rows {
            let payload = Envelope::parse(&row.envelope).map_err(Refused::internal)?.payload;
            let told: Told = serde_json::from_slice(&payload).map_err(Refused::internal)?;
            facts.each(&told, |seen| coverage.see(&seen))?;
        }
    }
    Ok(())
}

fn control(control: &Control, met: Vec<Met<'_>>) -> Result<ControlCoverage> {
    let covered = met.iter().all(Met::is_met);
    let requirements = met.into_iter().map(requirement).collect::<Result<_>>()?;
    Ok(ControlCoverage {
        control: control.id.clone(),
        title: control.title.clone(),
        covered,
        requirements,
    })
}

fn requirement(met: Met<'_>) -> Result<RequirementCoverage> {
    let time = |at: Timestamp| Some(WireTimestamp::from_micros(at.0));
    let is_met = met.is_met();
    let Met { requirement, evidence, gaps } = met;
    let filter = serde_json::to_string(&requirement.filter).map_err(Refused::internal)?;
    let gaps = gaps.iter().map(|gap| CoverageGap { since: time(gap.from), until: time(gap.to) });
    Ok(RequirementCoverage {
        shows: requirement.shows.clone(),
        met: is_met,
        found: evidence.found,
        at_least: requirement.at_least,
        first_receipt: evidence.first.unwrap_or_default(),
        last_receipt: evidence.last.unwrap_or_default(),
        gaps: gaps.collect(),
        receipts: requirement.receipts.clone(),
        filter: Some(Json { text: filter }),
        every_days: requirement.every_days.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_catalog_that_comes_along_is_one() {
        for (name, text) in SHIPPED {
            let catalog = catalog(text).unwrap();
            assert_eq!(catalog.metadata.name, name);
        }
    }

    #[test]
    fn a_refusal_names_line_and_reason() {
        let good = "apiVersion: tally/v1\nkind: ControlCatalog\n\
            metadata: {name: own, title: Own, version: '1'}\ncontrols:\n  - id: A\n    title: a\n\
            \x20   requires:\n      - shows: x\n        receipts: [action.decided]\n";
        assert!(catalog(good).is_ok());
        for (from, to, line) in [
            ("action.decided", "action.decide", 9),
            ("kind: ControlCatalog", "kind: Catalog", 2),
            ("shows: x", "shown: x", 8),
            ("id: A", "id: ''", 5),
            ("receipts: [", "at_least: 0\n        receipts: [", 9),
        ] {
            let text = good.replacen(from, to, 1);
            let Err(Refused(failure)) = catalog(&text) else { panic!("{text} is a catalog") };
            assert_eq!(failure.code, INVALID);
            assert!(failure.message.starts_with(&format!("line {line}:")), "{to}: {failure}");
        }
    }
}
