//! What calls of a model cost: at most before they are made, and really after.
//!
//! The worst case rests on one rule: a token stands for at least one byte of what is sent. So a
//! request has no more tokens than its body has bytes, but for those that the provider adds
//! itself, for which a fixed number is set aside; and never more than the model's context.

use std::sync::Arc;

use kernel::limits::AMOUNT_MICRO_USD_MAX;
use kernel::values::MicroUsd;
use serde::Serialize;

use super::config::ModelConfig;
use crate::http::Progress;
use crate::limits;

/// Tokens that were used, as the provider counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    /// Read, whether out of the cache or not.
    pub(super) input_tokens: u64,
    /// Of these, read out of the cache.
    pub(super) cached_tokens: u64,
    /// Of these, read and put into the cache.
    pub(super) cache_write_tokens: u64,
    /// Written, reasoning included.
    pub(super) output_tokens: u64,
    /// Of these, reasoning.
    pub(super) reasoning_tokens: u64,
}

impl Usage {
    fn add(&mut self, more: &Self) {
        let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
        add(&mut self.input_tokens, more.input_tokens);
        add(&mut self.cached_tokens, more.cached_tokens);
        add(&mut self.cache_write_tokens, more.cache_write_tokens);
        add(&mut self.output_tokens, more.output_tokens);
        add(&mut self.reasoning_tokens, more.reasoning_tokens);
    }

    /// The same with nothing larger than can be charged, and no part larger than its whole.
    fn sane(self) -> Self {
        let most = |tokens: u64| tokens.min(limits::LLM_TOKENS_REPORTED_MAX);
        let (input_tokens, output_tokens) = (most(self.input_tokens), most(self.output_tokens));
        let cached_tokens = self.cached_tokens.min(input_tokens);
        Self {
            input_tokens,
            cached_tokens,
            cache_write_tokens: self.cache_write_tokens.min(input_tokens - cached_tokens),
            output_tokens,
            reasoning_tokens: self.reasoning_tokens.min(output_tokens),
        }
    }

    /// All of them.
    pub(super) fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// What they cost, rounded up to a micro-dollar.
    pub(super) fn cost(&self, price: &ModelConfig) -> MicroUsd {
        let read = price.cached_input.unwrap_or(price.input);
        let written = price.cache_write.unwrap_or(price.input);
        let fresh = self
            .input_tokens
            .saturating_sub(self.cached_tokens)
            .saturating_sub(self.cache_write_tokens);
        let parts = [
            (fresh, price.input),
            (self.cached_tokens, read),
            (self.cache_write_tokens, written),
            (self.output_tokens, price.output),
        ];
        let whole = parts
            .iter()
            .map(|(tokens, price)| u128::from(*tokens) * u128::from(price.0.max(0).unsigned_abs()));
        let micro = whole.sum::<u128>().div_ceil(1_000_000);
        MicroUsd(i64::try_from(micro).unwrap_or(i64::MAX).min(AMOUNT_MICRO_USD_MAX))
    }
}

/// What one call may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) input: u64,
    pub(super) output: u64,
}

impl Bound {
    /// Of a request whose body has so many bytes.
    pub(super) fn of_body(bytes: usize, max_tokens: u64, model: &ModelConfig) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let input = bytes.saturating_add(limits::LLM_OVERHEAD_TOKENS).min(model.context);
        Self { input, output: max_tokens }
    }

    /// Of a request that shows the model its answer to this one, with what is wrong with it. What
    /// it wrote is no more tokens to read than it was to write.
    pub(super) fn of_repair(self, model: &ModelConfig) -> Self {
        let more = self.output.saturating_add(limits::LLM_REPAIR_TOKENS);
        Self { input: self.input.saturating_add(more).min(model.context), ..self }
    }

    /// As usage, what is read at the dearest of its prices.
    fn usage(self, model: &ModelConfig) -> Usage {
        let plain = model.input;
        let (read, written) =
            (model.cached_input.unwrap_or(plain), model.cache_write.unwrap_or(plain));
        let mut usage =
            Usage { input_tokens: self.input, output_tokens: self.output, ..Usage::default() };
        if written > plain && written >= read {
            usage.cache_write_tokens = self.input;
        } else if read > plain {
            usage.cached_tokens = self.input;
        }
        usage
    }
}

/// The worst case of a call of the tool: its first request and every repair.
pub(super) fn worst(first: Bound, repairs: u32, model: &ModelConfig) -> Usage {
    let mut usage = first.usage(model);
    for _ in 0..repairs {
        usage.add(&first.of_repair(model).usage(model));
    }
    usage
}

/// Counts what the requests of one call of the tool come to.
#[derive(Debug)]
pub(super) struct Meter {
    model: ModelConfig,
    used: Usage,
    /// A request that is on its way: whatever becomes of it, it may cost as much.
    under_way: Option<(Bound, Arc<Progress>)>,
    /// Requests that were answered or may have been.
    pub(super) calls: u32,
    /// Whether something is counted that the provider did not report.
    pub(super) estimated: bool,
    pub(super) bytes_out: u64,
    pub(super) bytes_in: u64,
}

impl Meter {
    pub(super) fn new(model: ModelConfig) -> Self {
        Self {
            model,
            used: Usage::default(),
            under_way: None,
            calls: 0,
            estimated: false,
            bytes_out: 0,
            bytes_in: 0,
        }
    }

    /// A request is about to be sent; whoever sends it says how far it got.
    pub(super) fn begin(&mut self, bound: Bound) -> Arc<Progress> {
        let progress = Arc::<Progress>::default();
        self.under_way = Some((bound, progress.clone()));
        progress
    }

    /// It was refused: nothing is charged for it.
    pub(super) fn free(&mut self) {
        self.under_way = None;
    }

    /// It came to what the provider says; where it says nothing, to its bound. What was never
    /// sent came to nothing.
    pub(super) fn settle(&mut self, reported: Option<Usage>) {
        let Some((bound, progress)) = self.under_way.take() else { return };
        if !progress.sent() {
            return;
        }
        self.calls = self.calls.saturating_add(1);
        self.estimated |= reported.is_none();
        self.used.add(&reported.unwrap_or_else(|| bound.usage(&self.model)).sane());
    }

    /// It wrote more than it was asked for and was cut off: at least so much.
    pub(super) fn overran(&mut self, output: u64) {
        if let Some((bound, _)) = &mut self.under_way {
            bound.output = bound.output.max(output);
        }
        self.settle(None);
    }

    /// An earlier attempt was lost, and may have cost as much as was held for both: that is what
    /// they are taken to have cost together, unless this one alone cost more.
    pub(super) fn lost(&mut self, worst: Usage) {
        self.settle(None);
        self.estimated = true;
        self.calls = self.calls.max(1);
        if self.used.cost(&self.model) < worst.cost(&self.model) {
            self.used = worst;
        }
    }

    /// What everything came to. A request that is still on its way counts with its bound.
    pub(super) fn close(&mut self) -> (Usage, MicroUsd) {
        self.settle(None);
        (self.used, self.used.cost(&self.model))
    }

    /// Whether a further request with this bound is covered by what was set aside.
    pub(super) fn covers(&self, next: Bound, worst: Usage) -> bool {
        let mut then = self.used;
        then.add(&next.usage(&self.model));
        then.cost(&self.model) <= worst.cost(&self.model) && then.tokens() <= worst.tokens()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(cached: Option<i64>, write: Option<i64>) -> ModelConfig {
        ModelConfig {
            input: MicroUsd(3_000_000),
            output: MicroUsd(15_000_000),
            cached_input: cached.map(MicroUsd),
            cache_write: write.map(MicroUsd),
            context: 10_000,
            max_tokens: 100,
        }
    }

    #[test]
    fn prices_are_for_a_million_tokens_and_rounded_up() {
        let usage = Usage { input_tokens: 1, output_tokens: 1, ..Usage::default() };
        assert_eq!(usage.cost(&model(None, None)), MicroUsd(18));
        let cheap = ModelConfig { input: MicroUsd(1), output: MicroUsd(0), ..model(None, None) };
        assert_eq!(usage.cost(&cheap), MicroUsd(1));
        let cached = Usage { input_tokens: 10, cached_tokens: 4, ..Usage::default() };
        assert_eq!(cached.cost(&model(Some(300_000), None)), MicroUsd(20));
        let huge = Usage { output_tokens: u64::MAX, ..Usage::default() };
        assert_eq!(huge.cost(&model(None, None)), MicroUsd(AMOUNT_MICRO_USD_MAX));
    }

    #[test]
    fn the_worst_case_is_at_the_dearest_price_and_within_the_context() {
        let bound = Bound::of_body(100, 50, &model(None, None));
        assert_eq!(bound, Bound { input: 100 + limits::LLM_OVERHEAD_TOKENS, output: 50 });
        assert_eq!(Bound::of_body(1 << 20, 50, &model(None, None)).input, 10_000);
        for (cached, write, price) in
            [(None, None, 3), (Some(1_000_000), None, 3), (None, Some(4_000_000), 4)]
        {
            let model = model(cached, write);
            let worst = worst(Bound { input: 10, output: 0 }, 0, &model);
            assert_eq!(worst.cost(&model), MicroUsd(10 * price), "{cached:?} {write:?}");
        }
        let repaired = worst(bound, 2, &model(None, None));
        assert!(repaired.tokens() > 3 * (bound.input + bound.output));
    }

    #[test]
    fn what_is_not_reported_is_charged_at_its_bound() {
        let mut meter = Meter::new(model(None, None));
        meter.begin(Bound { input: 10, output: 5 }).sending();
        meter.settle(Some(Usage { input_tokens: 2, output_tokens: 1, ..Usage::default() }));
        assert_eq!((meter.estimated, meter.calls), (false, 1));
        meter.begin(Bound { input: 10, output: 5 }).sending();
        meter.free();
        drop(meter.begin(Bound { input: 10, output: 5 }));
        meter.begin(Bound { input: 10, output: 5 }).sending();
        let (usage, cost) = meter.close();
        assert_eq!((usage.input_tokens, usage.output_tokens, meter.calls), (12, 6, 2));
        assert_eq!((cost, meter.estimated), (MicroUsd(36 + 90), true));
    }

    #[test]
    fn no_part_is_larger_than_its_whole() {
        let mut meter = Meter::new(model(Some(0), None));
        meter.begin(Bound { input: 10, output: 5 }).sending();
        let lies = Usage { input_tokens: 1, cached_tokens: 9, ..Usage::default() };
        meter.settle(Some(lies));
        assert_eq!(meter.close().0.cached_tokens, 1);
    }
}
