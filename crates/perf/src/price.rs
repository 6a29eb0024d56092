//! What machine time costs.
//!
//! An instance is paid for as long as it stands; a request is charged the share of it that it held.

use std::time::Duration;

use sagellm_types::Usd;

/// What an instance costs to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rent {
    /// GPUs that it occupies.
    pub gpus: u32,
    /// Rent of one GPU for one hour.
    pub price_per_gpu_hour: Usd,
}

impl Rent {
    /// Returns the rent of one second.
    pub fn per_second(&self) -> Usd {
        self.price_per_gpu_hour * (f64::from(self.gpus) / 3600.0)
    }

    /// Returns what one of `sequences` requests that shared the instance for `time` costs.
    pub fn share(&self, time: Duration, sequences: u32) -> Usd {
        self.per_second() * (time.as_secs_f64() / f64::from(sequences.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_pays_its_share_of_all_gpus() {
        let rent = Rent { gpus: 4, price_per_gpu_hour: Usd(3.0) };
        let cost = rent.share(Duration::from_secs(60), 2);
        assert!((cost.0 - 0.1).abs() < 1e-12, "4 GPUs × $3 / 60 minutes / 2 requests");
    }
}
