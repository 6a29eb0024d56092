//! Pages that are read, not scheduled: health, version, models, metrics.

use http::StatusCode;
use sagellm_api::{ModelCard, ModelList};
use sagellm_manager::Shell;
use sagellm_types::EngineState;

use crate::answer::{Answer, json, whole};

/// `/health`: the gateway runs.
pub(crate) fn health() -> Answer {
    whole(StatusCode::OK, "application/json", "{\"status\":\"ok\"}")
}

/// `/ready`: at least one instance takes requests.
pub(crate) fn ready(shell: &Shell) -> Answer {
    let (ready, all) = shell.read(|core, _| {
        let states = || core.fleet().iter().map(|found| found.state);
        (states().filter(|&state| state == EngineState::Ready).count(), states().count())
    });
    let status = if ready > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &serde_json::json!({"ready_instances": ready, "instances": all}))
}

/// `/version`.
pub(crate) fn version() -> Answer {
    json(
        StatusCode::OK,
        &serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "name": "sagellm"}),
    )
}

/// `/v1/models`: of the fleet, adapters and aliases too.
pub(crate) fn models(shell: &Shell) -> Answer {
    let views = shell.read(|core, _| core.model_views());
    let cards = views.into_iter().map(|view| {
        let mut card = ModelCard::new(view.name, "sagellm");
        card.root = view.alias_of;
        card
    });
    whole(StatusCode::OK, "application/json", ModelList::new(cards.collect()).to_json())
}

/// `/v1/models/{name}`, or `None` if nobody serves it.
pub(crate) fn model(shell: &Shell, name: &str) -> Option<Answer> {
    let views = shell.read(|core, _| core.model_views());
    let view = views.into_iter().find(|view| view.name == name)?;
    let mut card = ModelCard::new(view.name, "sagellm");
    card.root = view.alias_of;
    Some(json(StatusCode::OK, &card))
}

/// `/metrics`, in Prometheus' text format.
pub(crate) fn metrics(shell: &Shell) -> Answer {
    let snapshot = shell.snapshot();
    let page = sagellm_monitoring::exposition(&snapshot.figures);
    whole(StatusCode::OK, sagellm_monitoring::CONTENT_TYPE, page)
}
