//! The dispatch window: where the queue lives.
//!
//! An engine has a first-come-first-served queue of its own; whatever waits there is out of every
//! strategy's reach. So an instance gets about one request more than it can start: the window falls
//! when its engine reports waiting requests at two probes running, and rises by one per finished
//! request while it is full and the engine waits for nothing. After an instance comes back the
//! window opens slowly.

use crate::WindowLimit;

/// How many requests an instance takes at once.
#[derive(Clone, Debug)]
pub struct Window {
    limit: WindowLimit,
    most: u32,
    size: u32,
    /// Set while the instance warms up after its return.
    ramp: Option<u32>,
    engine_waits: bool,
    waited_before: bool,
}

impl Window {
    /// Returns a window of `most` requests.
    pub fn new(limit: WindowLimit, most: u32) -> Self {
        let most = most.max(1);
        Self { limit, most, size: most, ramp: None, engine_waits: false, waited_before: false }
    }

    /// Returns how many requests the instance takes at once.
    pub fn size(&self) -> u32 {
        self.ramp.map_or(self.size, |ramp| ramp.min(self.size))
    }

    /// Starts over at `first` requests; the window doubles at each good probe.
    pub fn warm_up(&mut self, first: u32) {
        self.ramp = Some(first.max(1));
        (self.engine_waits, self.waited_before) = (false, false);
    }

    /// Learns from a good probe: requests running and waiting at the engine, if it says.
    pub fn on_probe(&mut self, gauges: Option<(u32, u32)>) {
        if let Some(ramp) = &mut self.ramp {
            *ramp = ramp.saturating_mul(2);
            if *ramp >= self.most {
                self.ramp = None;
            }
        }
        let Some((running, waiting)) = gauges else { return };
        self.engine_waits = waiting > 0;
        if self.limit == WindowLimit::Auto && self.engine_waits && self.waited_before {
            self.size = self.size.min(running + 1).max(1);
        }
        self.waited_before = self.engine_waits;
    }

    /// Learns that a request has finished while `full` says whether the window was used up.
    pub fn on_finish(&mut self, full: bool) {
        if full && !self.engine_waits {
            self.size = (self.size + 1).min(self.most);
        }
    }

    /// Learns that the engine refused a request because its own queue is full.
    pub fn on_busy(&mut self, reserved: u32) {
        if self.limit == WindowLimit::Auto {
            self.size = self.size.min(reserved.saturating_sub(1)).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_the_second_probe_with_waiting_requests() {
        let mut window = Window::new(WindowLimit::Auto, 100);
        window.on_probe(Some((8, 20)));
        assert_eq!(window.size(), 100, "one probe is not enough");
        window.on_probe(Some((8, 12)));
        assert_eq!(window.size(), 9);
        window.on_finish(true);
        assert_eq!(window.size(), 9, "not while the engine waits");
    }

    #[test]
    fn it_rises_by_one_per_finished_request_while_full() {
        let mut window = Window::new(WindowLimit::Auto, 10);
        window.on_probe(Some((3, 1)));
        window.on_probe(Some((3, 1)));
        window.on_probe(Some((4, 0)));
        window.on_finish(false);
        assert_eq!(window.size(), 4);
        (0..20).for_each(|_| window.on_finish(true));
        assert_eq!(window.size(), 10);
    }

    #[test]
    fn it_opens_slowly_after_a_return() {
        let mut window = Window::new(WindowLimit::Fixed, 20);
        window.warm_up(4);
        let mut sizes = vec![window.size()];
        for _ in 0..4 {
            window.on_probe(None);
            sizes.push(window.size());
        }
        assert_eq!(sizes, [4, 8, 16, 20, 20]);
    }

    #[test]
    fn a_fixed_window_does_not_fall() {
        let mut window = Window::new(WindowLimit::Fixed, 20);
        (0..3).for_each(|_| window.on_probe(Some((1, 50))));
        window.on_busy(2);
        assert_eq!(window.size(), 20);
    }
}
