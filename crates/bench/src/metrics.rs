//! What the server counts itself, read from its `/metrics`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

const PATIENCE: Duration = Duration::from_secs(10);

/// Every sample by its name and labels.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn read(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("reading /metrics")?;
        Ok(Self(parse(&answer)))
    }

    fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// The sum of all samples of this name, whatever their labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let mine = |sample: &str| sample.split('{').next() == Some(name);
        self.0.iter().filter(|(sample, _)| mine(sample)).map(|(_, value)| value).sum()
    }

    /// How many actions have been executed.
    pub(crate) fn executed(&self) -> f64 {
        self.get(r#"tally_actions_total{status="executed"}"#)
    }

    /// The average microseconds of a stage since `before`; none where it was not entered.
    pub(crate) fn stage(&self, before: &Self, stage: &str) -> Option<f64> {
        let since = |part: &str| {
            let sample = format!("tally_action_stage_duration_seconds_{part}{{stage=\"{stage}\"}}");
            self.get(&sample) - before.get(&sample)
        };
        let count = since("count");
        (count > 0.0).then(|| since("sum") * 1e6 / count)
    }
}

fn parse(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    let samples = samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_averaged_over_what_came_since() {
        let text = |count, sum| {
            let name = "tally_action_stage_duration_seconds";
            Metrics(parse(&format!(
                "HTTP/1.1 200 OK\r\n\r\n# TYPE {name} histogram\n\
                 {name}_sum{{stage=\"permit\"}} {sum}\n{name}_count{{stage=\"permit\"}} {count}\n\
                 tally_actions_total{{status=\"executed\"}} {count}\n# EOF\n"
            )))
        };
        let (before, after) = (text(2, 1.0), text(6, 3.0));
        assert_eq!(after.stage(&before, "permit"), Some(500_000.0));
        assert_eq!(after.stage(&before, "decide"), None);
        assert_eq!(after.executed() - before.executed(), 4.0);
        assert_eq!(after.sum("tally_actions_total"), 6.0);
        assert_eq!(after.sum("tally_actions"), 0.0);
    }
}
