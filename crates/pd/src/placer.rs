//! Split or not.

use sagellm_types::{ExecutionInstanceType, PdSeparationConfig, Phase, Request, Timestamp};

use crate::phase;

/// How many instances of each role serve a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RolesOfModel {
    /// Instances of both roles.
    pub whole: u32,
    /// Instances specialised in prefill.
    pub prefilling: u32,
    /// Instances specialised in decode.
    pub decoding: u32,
}

impl RolesOfModel {
    /// Counts an instance of this type.
    pub fn count(&mut self, kind: ExecutionInstanceType) {
        match kind {
            ExecutionInstanceType::Prefilling => self.prefilling += 1,
            ExecutionInstanceType::Decoding => self.decoding += 1,
            ExecutionInstanceType::Embedding => {}
            _ => self.whole += 1,
        }
    }

    /// Returns whether there is an instance of either specialised role.
    pub const fn specialised(&self) -> bool {
        self.prefilling > 0 || self.decoding > 0
    }
}

/// Where a request's phases run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On one instance, of a role that takes this phase.
    Colocated(Phase),
    /// Prefill on one instance and decode on another, the router being asked once per role.
    Split,
}

/// Decides whether a request's phases are split.
pub trait Placer: Send {
    /// Returns where the phases of `request` run, given the roles of the instances of its model.
    fn place(&mut self, request: &Request, roles: &RolesOfModel, now: Timestamp) -> Placement;
}

/// A placer is used through a trait object.
const _: Option<&dyn Placer> = None;

/// Never splits and tells no phases apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Colocated;

impl Placer for Colocated {
    fn place(&mut self, _: &Request, _: &RolesOfModel, _: Timestamp) -> Placement {
        Placement::Colocated(Phase::Hybrid)
    }
}

/// A fleet that cannot serve a model without handing KV from a prefill to a decode instance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "model `{model}` has {prefilling} prefilling and {decoding} decoding instances, and \
     pd.enable_kv_cache_transfer is on: the hand-over of KV between them is not offered yet. \
     Set pd.enable_kv_cache_transfer = false to send whole requests to the role that their phase \
     asks for, or pd.enabled = false and register the instances as `general`"
)]
pub struct HandOverNeeded {
    /// The model.
    pub model: String,
    /// Its prefill instances.
    pub prefilling: u32,
    /// Its decode instances.
    pub decoding: u32,
}

/// Sends whole requests to the role that their phase asks for, and splits long prompts when KV can
/// be handed over. Without specialised instances nothing changes.
#[derive(Clone, Debug)]
pub struct PhasePlacer {
    config: PdSeparationConfig,
}

impl PhasePlacer {
    /// Returns a placer with these settings.
    pub fn new(config: PdSeparationConfig) -> Self {
        Self { config }
    }

    /// Returns whether instances of these roles can serve `model` without a hand-over.
    ///
    /// # Errors
    /// [`HandOverNeeded`] says what to change.
    pub fn check(&self, model: &str, roles: &RolesOfModel) -> Result<(), HandOverNeeded> {
        let splits = self.config.enabled
            && self.config.enable_kv_cache_transfer
            && roles.prefilling > 0
            && roles.decoding > 0;
        if splits {
            return Err(HandOverNeeded {
                model: model.to_owned(),
                prefilling: roles.prefilling,
                decoding: roles.decoding,
            });
        }
        Ok(())
    }
}

impl Placer for PhasePlacer {
    fn place(&mut self, request: &Request, roles: &RolesOfModel, _: Timestamp) -> Placement {
        if !roles.specialised() {
            return Placement::Colocated(Phase::Hybrid);
        }
        let phase = phase(&self.config, request);
        let hand_over =
            self.config.enable_kv_cache_transfer && roles.prefilling > 0 && roles.decoding > 0;
        if phase == Phase::Prefilling && hand_over {
            return Placement::Split;
        }
        // A role that nobody has does not keep a request from those who could run it.
        let able = match phase {
            Phase::Prefilling => roles.whole + roles.prefilling,
            Phase::Decoding => roles.whole + roles.decoding,
            Phase::Hybrid => 1,
        };
        Placement::Colocated(if able > 0 { phase } else { Phase::Hybrid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sagellm_types::Tokens;

    fn placer(transfer: bool) -> PhasePlacer {
        PhasePlacer::new(PdSeparationConfig {
            enable_kv_cache_transfer: transfer,
            ..Default::default()
        })
    }

    fn long() -> Request {
        let mut request = Request::example(0);
        request.forecast.prompt = Tokens(4_000);
        request
    }

    const BOTH: RolesOfModel = RolesOfModel { whole: 0, prefilling: 1, decoding: 1 };

    #[test]
    fn without_specialised_instances_nothing_changes() {
        let roles = RolesOfModel { whole: 3, ..RolesOfModel::default() };
        let placement = placer(true).place(&long(), &roles, Timestamp::ZERO);
        assert_eq!(placement, Placement::Colocated(Phase::Hybrid));
    }

    #[test]
    fn long_prompts_split_when_kv_can_be_handed_over() {
        assert_eq!(placer(true).place(&long(), &BOTH, Timestamp::ZERO), Placement::Split);
        let short = Request::example(0);
        let placement = placer(true).place(&short, &BOTH, Timestamp::ZERO);
        assert_eq!(placement, Placement::Colocated(Phase::Decoding));
        let whole = placer(false).place(&long(), &BOTH, Timestamp::ZERO);
        assert_eq!(whole, Placement::Colocated(Phase::Prefilling));
    }

    #[test]
    fn a_role_that_nobody_has_keeps_nothing_waiting() {
        let decoding = RolesOfModel { decoding: 2, ..RolesOfModel::default() };
        let placement = placer(true).place(&long(), &decoding, Timestamp::ZERO);
        assert_eq!(placement, Placement::Colocated(Phase::Hybrid));
        let prefilling = RolesOfModel { prefilling: 2, ..RolesOfModel::default() };
        let placement = placer(true).place(&Request::example(0), &prefilling, Timestamp::ZERO);
        assert_eq!(placement, Placement::Colocated(Phase::Hybrid));
    }

    #[test]
    fn a_fleet_that_needs_the_hand_over_is_refused_with_the_way_out() {
        let error = placer(true).check("llama", &BOTH).expect_err("needs it").to_string();
        assert!(error.contains("model `llama` has 1 prefilling and 1 decoding"), "{error}");
        assert!(error.contains("pd.enable_kv_cache_transfer = false"), "{error}");
        assert_eq!(placer(false).check("llama", &BOTH), Ok(()));
    }

    #[test]
    fn each_type_takes_the_phases_of_its_role() {
        use ExecutionInstanceType as T;
        let takes = |kind: T| {
            [Phase::Prefilling, Phase::Decoding, Phase::Hybrid].map(|phase| kind.takes_phase(phase))
        };
        assert_eq!(takes(T::General), [true, true, true]);
        assert_eq!(takes(T::Prefilling), [true, false, true]);
        assert_eq!(takes(T::Decoding), [false, true, true]);
        assert_eq!(takes(T::Embedding), [false, false, false]);
    }
}
