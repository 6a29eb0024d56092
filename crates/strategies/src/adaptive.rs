//! Chooses among the other strategies from how hard the fleet is pressed.
//!
//! | pressure | strategy | why |
//! |---|---|---|
//! | room everywhere, nothing waits, nothing late, instances differ | `cost_optimized` | all is on time: save money |
//! | requests wait, most will be on time | `slo_aware` | order decides who is on time |
//! | more is late than on time, and priorities differ | `priority` | not everybody can be served: serve who matters |
//!
//! The signals are smoothed over about three seconds, each boundary has two thresholds, and a choice
//! stands for at least `dwell`, so one urgent request or a short burst does not throw it over.

use std::time::Duration;

use sagellm_types::{CandidateSet, Request, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    Admission, CostOptimized, CostOptimizedConfig, Narrowing, Observation, Pressure, Priority,
    PriorityConfig, SchedulingStrategy, SloAware, SloAwareConfig, Switch, Urgency,
};

/// Settings of [`Adaptive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// A choice stands for at least this long, in milliseconds.
    pub dwell_ms: u64,
    /// Below this share of reserved slots, with nothing waiting, the fleet is calm.
    pub calm_fill: f64,
    /// Above this share of recently missed objectives the fleet is not calm, however empty.
    pub calm_missed: f64,
    /// Above this share of late requests, or of missed objectives, the fleet is overloaded.
    pub overload_late: f64,
    /// How far a signal must come back across its boundary before the choice is left.
    pub hysteresis: f64,
    /// Time constant of the smoothing, in milliseconds.
    pub smoothing_ms: u64,
    /// Settings of the strategy for calm.
    pub cost_optimized: CostOptimizedConfig,
    /// Settings of the strategy for load.
    pub slo_aware: SloAwareConfig,
    /// Settings of the strategy for overload.
    pub priority: PriorityConfig,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            dwell_ms: 5_000,
            calm_fill: 0.6,
            calm_missed: 0.02,
            overload_late: 0.5,
            hysteresis: 0.15,
            smoothing_ms: 3_000,
            cost_optimized: CostOptimizedConfig::default(),
            slo_aware: SloAwareConfig::default(),
            priority: PriorityConfig::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Calm,
    Loaded,
    Overloaded,
}

/// Chooses among `cost_optimized`, `slo_aware` and `priority`.
#[derive(Debug)]
pub struct Adaptive {
    config: AdaptiveConfig,
    cost_optimized: CostOptimized,
    slo_aware: SloAware,
    priority: Priority,
    mode: Mode,
    since: Timestamp,
    revision: u64,
    smooth: Signals,
    last_seen: Option<Timestamp>,
    /// Whether there is something to save.
    mixed_fleet: bool,
    switch: Option<Switch>,
}

/// The smoothed signals.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    fill: f64,
    late: f64,
    missed: f64,
    queued: f64,
    /// How much of the time requests of different priorities waited.
    mixed: f64,
}

impl Adaptive {
    /// Returns the strategy with these settings.
    pub fn new(config: &AdaptiveConfig) -> Self {
        Self {
            cost_optimized: CostOptimized::new(&config.cost_optimized),
            slo_aware: SloAware::new(&config.slo_aware),
            priority: Priority::new(&config.priority),
            config: config.clone(),
            mode: Mode::Loaded,
            since: Timestamp::ZERO,
            revision: 0,
            smooth: Signals::default(),
            last_seen: None,
            mixed_fleet: false,
            switch: None,
        }
    }

    fn active(&self) -> &dyn SchedulingStrategy {
        match self.mode {
            Mode::Calm => &self.cost_optimized,
            Mode::Loaded => &self.slo_aware,
            Mode::Overloaded => &self.priority,
        }
    }

    fn active_mut(&mut self) -> &mut dyn SchedulingStrategy {
        match self.mode {
            Mode::Calm => &mut self.cost_optimized,
            Mode::Loaded => &mut self.slo_aware,
            Mode::Overloaded => &mut self.priority,
        }
    }

    fn consider(&mut self, pressure: &Pressure, now: Timestamp) {
        self.mixed_fleet = pressure.mixed_fleet;
        self.smooth(pressure, now);
        if now.since(self.since) < Duration::from_millis(self.config.dwell_ms) {
            return;
        }
        let wanted = self.wanted();
        if wanted == self.mode {
            return;
        }
        let from = self.active().name();
        self.mode = wanted;
        self.since = now;
        self.revision += 1;
        let Signals { fill, late, missed, queued, .. } = self.smooth;
        self.switch = Some(Switch {
            from,
            to: self.active().name(),
            reason: format!(
                "window fill {fill:.2}, late {late:.2}, missed {missed:.2}, waiting {queued:.1}"
            ),
            pressure: *pressure,
        });
    }

    /// Exponential smoothing over the time since the last look.
    fn smooth(&mut self, pressure: &Pressure, now: Timestamp) {
        let missed = pressure.attainment.map_or(0.0, |met| 1.0 - met.0);
        let seen = Signals {
            fill: pressure.window_fill.0,
            missed,
            late: if pressure.waiting > 0 { pressure.late_share.0.max(missed) } else { 0.0 },
            queued: f64::from(pressure.waiting),
            mixed: f64::from(u8::from(pressure.mixed_priorities)),
        };
        let Some(last) = self.last_seen.replace(now) else {
            self.smooth = seen;
            return;
        };
        let (dt, tau) = (now.since(last).as_secs_f64(), self.config.smoothing_ms as f64 / 1e3);
        let weight = dt / (dt + tau);
        let mix = |old: &mut f64, new: f64| *old += weight * (new - *old);
        mix(&mut self.smooth.fill, seen.fill);
        mix(&mut self.smooth.late, seen.late);
        mix(&mut self.smooth.missed, seen.missed);
        mix(&mut self.smooth.queued, seen.queued);
        mix(&mut self.smooth.mixed, seen.mixed);
    }

    /// Returns the mode that the signals ask for; the present one has the benefit of the doubt.
    fn wanted(&self) -> Mode {
        let AdaptiveConfig { calm_fill, calm_missed, overload_late, hysteresis, .. } = self.config;
        let Signals { fill, late, missed, queued, mixed } = self.smooth;
        let overload = overload_late - if self.mode == Mode::Overloaded { hysteresis } else { 0.0 };
        let calm = calm_fill + if self.mode == Mode::Calm { hysteresis } else { 0.0 };
        // Less than half a waiting request on average is nobody waiting.
        if late > overload && queued >= 0.5 && mixed >= 0.5 {
            Mode::Overloaded
        } else if self.mixed_fleet && fill < calm && queued < 0.5 && missed <= calm_missed {
            Mode::Calm
        } else {
            Mode::Loaded
        }
    }
}

impl SchedulingStrategy for Adaptive {
    fn urgency(&self, request: &Request, now: Timestamp) -> Urgency {
        self.active().urgency(request, now)
    }

    fn admit(&mut self, request: &Request, pressure: &Pressure, now: Timestamp) -> Admission {
        self.active_mut().admit(request, pressure, now)
    }

    fn narrow(
        &mut self,
        request: &Request,
        candidates: &mut CandidateSet<'_>,
        now: Timestamp,
    ) -> Narrowing {
        self.active_mut().narrow(request, candidates, now)
    }

    fn observe(&mut self, observation: Observation<'_>, now: Timestamp) {
        if let Observation::Pressure(pressure) = observation {
            self.consider(pressure, now);
        }
        self.cost_optimized.observe(observation, now);
        self.slo_aware.observe(observation, now);
        self.priority.observe(observation, now);
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn take_switch(&mut self) -> Option<Switch> {
        self.switch.take()
    }

    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn acting_as(&self) -> &'static str {
        self.active().name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Ratio;

    fn pressure(fill: f64, waiting: u32, late: f64) -> Pressure {
        Pressure {
            waiting,
            slots: 100,
            window_fill: Ratio(fill),
            late_share: Ratio(late),
            mixed_fleet: true,
            mixed_priorities: true,
            ..Pressure::default()
        }
    }

    /// Shows `load(t)` every 100 ms and returns the times of the switches and their targets.
    fn run(secs: u64, load: impl Fn(f64) -> Pressure) -> Vec<(Timestamp, &'static str)> {
        let mut adaptive = Adaptive::new(&AdaptiveConfig::default());
        let mut switches = Vec::new();
        for tick in 0..secs * 10 {
            let now = Timestamp::from_millis(tick * 100);
            adaptive.observe(Observation::Pressure(&load(now.as_secs_f64())), now);
            if let Some(switch) = adaptive.take_switch() {
                assert!(switch.reason.contains("window fill"), "{}", switch.reason);
                switches.push((now, switch.to));
            }
        }
        switches
    }

    #[test]
    fn calm_saves_money_load_orders_and_overload_protects() {
        let switches = run(60, |t| match t as u64 {
            0..20 => pressure(0.2, 0, 0.0),
            20..40 => pressure(1.0, 20, 0.1),
            _ => pressure(1.0, 500, 0.9),
        });
        let targets: Vec<_> = switches.iter().map(|s| s.1).collect();
        assert_eq!(targets, ["cost_optimized", "slo_aware", "priority"]);
    }

    #[test]
    fn among_equals_nothing_is_saved_and_nobody_matters_more() {
        let switches = run(60, |t| {
            let equals =
                |pressure| Pressure { mixed_fleet: false, mixed_priorities: false, ..pressure };
            equals(if t < 30.0 { pressure(0.2, 0, 0.0) } else { pressure(1.0, 500, 0.9) })
        });
        assert_eq!(switches, [], "slo_aware all the time");
    }

    #[test]
    fn a_square_wave_switches_at_most_once_per_dwell() {
        let switches =
            run(
                120,
                |t| {
                    if t % 2.0 < 1.0 { pressure(1.0, 300, 0.9) } else { pressure(0.1, 0, 0.0) }
                },
            );
        for pair in switches.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= Duration::from_secs(5), "{switches:?}");
        }
    }

    #[test]
    fn one_urgent_request_does_not_throw_it_over() {
        let switches = run(60, |t| {
            // One late request for 100 ms in an otherwise calm minute.
            if (30.0..30.1).contains(&t) { pressure(0.3, 1, 1.0) } else { pressure(0.3, 0, 0.0) }
        });
        assert_eq!(switches, [(Timestamp::from_secs(5), "cost_optimized")]);
    }
}
