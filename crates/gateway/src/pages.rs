//! Pages that are read, not scheduled: health, version, models, metrics.

use http::StatusCode;
use percent_encoding::percent_decode_str;
use sagellm_api::{ModelCard, ModelList};
use sagellm_manager::{ModelView, Shell};
use sagellm_types::EngineState;

use crate::answer::{Answer, json, whole};
use crate::error::Refusal;

/// `/health`: the gateway runs.
pub(crate) fn health(shell: &Shell) -> Answer {
    if shell.is_sound() {
        whole(StatusCode::OK, "application/json", "{\"status\":\"ok\"}")
    } else {
        let why = "a decision of the control plane panicked: start the gateway anew";
        json(
            StatusCode::INTERNAL_SERVER_ERROR,
            &serde_json::json!({"status": "broken", "why": why}),
        )
    }
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
    let cards = views.into_iter().map(card);
    whole(StatusCode::OK, "application/json", ModelList::new(cards.collect()).to_json())
}

fn card(view: ModelView) -> ModelCard {
    ModelCard {
        root: view.alias_of,
        parent: view.parent,
        max_model_len: view.max_model_len,
        ..ModelCard::new(view.name, "sagellm")
    }
}

/// `/v1/models/{name}`; the name may hold slashes, percent-encoded or not.
pub(crate) fn model(shell: &Shell, name: &str) -> Result<Answer, Refusal> {
    let name = percent_decode_str(name).decode_utf8_lossy();
    let views = shell.read(|core, _| core.model_views());
    let served: Vec<String> = views.iter().map(|view| view.name.clone()).collect();
    let view = views.into_iter().find(|view| view.name == name);
    let view = view.ok_or_else(|| Refusal::unknown_model(&name, &served))?;
    Ok(json(StatusCode::OK, &card(view)))
}

/// `/metrics`, in Prometheus' text format.
pub(crate) fn metrics(shell: &Shell) -> Answer {
    let snapshot = shell.snapshot();
    let page = sagellm_monitoring::exposition(&snapshot.figures);
    whole(StatusCode::OK, sagellm_monitoring::CONTENT_TYPE, page)
}
