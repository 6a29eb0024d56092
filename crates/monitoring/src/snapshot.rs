//! What happened until a moment: the figures behind every reader.

use std::sync::Arc;
use std::time::Duration;

use sagellm_types::{RequestPriority, Timestamp};

use crate::fleetwide::Fleetwide;
use crate::instance::{InstanceFigures, Work};
use crate::level::Level;
use crate::series::{EndingKind, Series};
use crate::window::{Rolling, Span};

/// A model and the sums over its requests, apart by priority: each request is recorded once, and
/// readers add up either way.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name.
    pub name: Arc<str>,
    pub(crate) priorities: [Rolling<Series>; RequestPriority::ALL.len()],
}

impl Model {
    pub(crate) fn share(&mut self) -> Self {
        let priorities = self.priorities.each_mut().map(Rolling::share);
        Self { name: Arc::clone(&self.name), priorities }
    }
}

/// From when on a strategy was in use, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// The strategy.
    pub strategy: Arc<str>,
    /// Since when.
    pub from: Timestamp,
    /// Why, with the figures.
    pub reason: Arc<str>,
}

/// What happened until a moment. Taken under a lock, read without it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Timestamp,
    /// When the collector began.
    pub start: Timestamp,
    /// When the first request was submitted.
    pub first_submitted: Option<Timestamp>,
    /// When the last request ended.
    pub last_ended: Timestamp,
    /// Requests waiting in the control plane.
    pub waiting: Level,
    /// Requests waiting in the engines' own queues, as they said at their last probes.
    pub engine_waiting: Level,
    /// The models, in the order of their ids.
    pub models: Vec<Model>,
    /// The instances, those that are registered first, then those that have gone of late.
    pub instances: Vec<InstanceFigures>,
    /// How requests are placed.
    pub router: Arc<str>,
    /// The strategies in use, in order of time; the last one is in use now.
    pub intervals: Arc<Vec<Interval>>,
    pub(crate) fleetwide: Rolling<Fleetwide>,
}

impl Snapshot {
    /// Returns the sums over all requests.
    pub fn requests(&self, span: Span) -> Series {
        self.sum(self.models.iter().flat_map(|model| &model.priorities), span)
    }

    /// Returns the sums over the requests of one priority.
    pub fn priority(&self, priority: RequestPriority, span: Span) -> Series {
        self.sum(self.models.iter().map(|model| &model.priorities[priority.level()]), span)
    }

    /// Returns the sums over the requests of one model.
    pub fn model(&self, model: &Model, span: Span) -> Series {
        self.sum(&model.priorities, span)
    }

    /// Returns the sums that belong to no single request.
    pub fn fleetwide(&self, span: Span) -> Fleetwide {
        self.fleetwide.read(span, self.at)
    }

    /// Returns the sums over the attempts of one instance.
    pub fn work(&self, instance: &InstanceFigures, span: Span) -> Work {
        instance.work.read(span, self.at)
    }

    /// Returns how many requests were submitted and have neither ended nor wait.
    pub fn running(&self) -> u64 {
        let all = self.requests(Span::Start);
        all.submitted.saturating_sub(all.ended() + self.waiting.value())
    }

    /// Returns the strategy in use, or an empty name.
    pub fn strategy(&self) -> &str {
        self.intervals.last().map_or("", |interval| &interval.strategy)
    }

    /// Returns how much time `span` covers.
    pub fn length(&self, span: Span) -> Duration {
        span.length(self.start, self.at)
    }

    /// Returns the time from the first submission to the last ending, or to the snapshot while
    /// requests wait or run: what rates of a run are taken over.
    pub fn active(&self) -> Duration {
        let Some(first) = self.first_submitted else { return Duration::ZERO };
        let all = self.requests(Span::Start);
        let end = if all.ended() < all.submitted { self.at } else { self.last_ended };
        end.since(first)
    }

    /// Returns the share of all waiting that happened here, where its order can still change, and
    /// not in the engines' own queues; `None` if nothing waited.
    pub fn waiting_here(&self, span: Span) -> Option<f64> {
        let here = self.waiting.mean(span, self.at);
        let all = here + self.engine_waiting.mean(span, self.at);
        (all > 0.0).then(|| here / all)
    }

    /// Returns how many requests ended so, since the start.
    pub fn ended(&self, kind: EndingKind) -> u64 {
        self.requests(Span::Start).ending(kind)
    }

    fn sum<'a>(&self, all: impl IntoIterator<Item = &'a Rolling<Series>>, span: Span) -> Series {
        let mut sum = Series::default();
        for series in all {
            series.add_to(&mut sum, span, self.at);
        }
        sum
    }
}
