//! One settings file: TOML text into typed settings, and every mistake with its line.

use std::ops::Range;
use std::path::Path;

use sagellm_types::ExecutionInstance;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use super::error::Located;
use super::{Settings, SettingsError, sections};

/// Reads the settings in `text`; `path` is only for messages.
///
/// # Errors
/// [`SettingsError::File`] with the line of the first mistake.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Settings, SettingsError> {
    let at = |span: Option<Range<usize>>, message: &str| {
        SettingsError::File(Located::new(path, text, span, message))
    };
    let syntax = |error: toml::de::Error| at(error.span(), error.message());
    let document = DeTable::parse(text).map_err(syntax)?;
    let mut settings = Settings::default();
    let mut control_plane = DeTable::new();
    for (key, value) in document.get_ref().clone() {
        match key.get_ref().as_ref() {
            "gateway" => settings.gateway = read(value).map_err(syntax)?,
            "demo" => settings.demo = read(value).map_err(syntax)?,
            "instance" => settings.instances = instances(value, &at)?,
            name if sections().any(|section| section == name) => {
                control_plane.insert(key, value);
            }
            name => {
                let accepted: Vec<&str> = sections().collect();
                let accepted = accepted.join("`, `");
                let message = format!("unknown setting `{name}`; accepted are `{accepted}`");
                return Err(at(Some(key.span()), &message));
            }
        }
    }
    let whole = Spanned::new(document.span(), control_plane);
    settings.control_plane =
        serde::Deserialize::deserialize(Deserializer::from(whole)).map_err(syntax)?;
    settings.validate().map_err(|wrong| {
        let span = wrong.split(" = ").next().and_then(|key| find(document.get_ref(), key));
        at(span, &wrong)
    })?;
    Ok(settings)
}

/// Reads the value of a section.
fn read<T: DeserializeOwned>(value: Spanned<DeValue<'_>>) -> Result<T, toml::de::Error> {
    T::deserialize(ValueDeserializer::from(value))
}

/// Reads the tables of instances, whose names must differ.
fn instances(
    value: Spanned<DeValue<'_>>,
    at: &dyn Fn(Option<Range<usize>>, &str) -> SettingsError,
) -> Result<Vec<ExecutionInstance>, SettingsError> {
    let span = value.span();
    let DeValue::Array(tables) = value.into_inner() else {
        return Err(at(Some(span), "instances are written as tables [[instance]]"));
    };
    let mut instances: Vec<ExecutionInstance> = Vec::new();
    for table in tables {
        let span = table.span();
        let instance: ExecutionInstance =
            read(table).map_err(|error| at(error.span(), error.message()))?;
        if instances.iter().any(|other| other.instance_id == instance.instance_id) {
            let message = format!("a second instance is called `{}`", instance.instance_id);
            return Err(at(Some(span), &message));
        }
        instances.push(instance);
    }
    Ok(instances)
}

/// Returns where the value of a dotted key stands, or the nearest table above it.
fn find(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    let (mut table, mut span) = (table, None);
    for part in key.split('.') {
        let part = part.trim_matches('"');
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            break;
        };
        span = Some(name.span());
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let error = parse(Path::new("fleet.toml"), text).expect_err("a mistake").to_string();
        for part in expected {
            assert!(error.contains(part), "no `{part}` in:\n{error}");
        }
    }

    #[test]
    fn a_fleet_that_would_need_the_hand_over_is_refused_before_it_runs() {
        let instance = |name: &str, port: u16, kind: &str| {
            format!(
                "[[instance]]\ninstance_id = \"{name}\"\nhost = \"h\"\nport = {port}\nmodel_name = \"m\"\ninstance_type = \"{kind}\"\n"
            )
        };
        let fleet = instance("p", 1, "prefilling") + &instance("d", 2, "decoding");
        check(&fleet, &["hand-over", "pd.enable_kv_cache_transfer = false"]);
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = r#"
            seed = 7
            strategy = { slo_aware = { refuse_hopeless = true } }
            router = "power_of_two"
            [gateway]
            listen = "127.0.0.1:9000"
            [queue]
            max_waiting = 10
            [models.aliases]
            "*" = "llama-7b"
            [[instance]]
            instance_id = "a"
            host = "10.0.0.1"
            port = 8000
            model_name = "llama-7b"
        "#;
        let settings = parse(Path::new("fleet.toml"), text).expect("nothing is wrong");
        assert_eq!(settings.control_plane.seed.0, 7);
        assert_eq!(settings.control_plane.strategy.name(), "slo_aware");
        assert_eq!(settings.control_plane.router.name(), "power_of_two");
        assert_eq!(settings.control_plane.queue.max_waiting, 10);
        assert_eq!(settings.gateway.listen.port(), 9000);
        assert_eq!(settings.instances.len(), 1);
    }

    #[test]
    fn mistakes_are_shown_with_their_line_and_what_is_accepted() {
        check("seed = 1\nqeue = 2\n", &["fleet.toml:2:1", "unknown setting `qeue`", "`queue`"]);
        check("[queue]\nmax_waitin = 3\n", &["fleet.toml:2:1", "max_waitin", "`max_waiting`"]);
        check("[queue]\nmax_waiting = \"x\"\n", &["fleet.toml:2:15", "expected usize"]);
        check("strategy = \"fastest\"\n", &["fleet.toml:1:12", "known are: fifo"]);
        check("seed = \n", &["fleet.toml:1:"]);
        check("[gateway]\nport = 1\n", &["fleet.toml:2:1", "`listen`"]);
        check("instance = 3\n", &["fleet.toml:1:12", "[[instance]]"]);
    }

    #[test]
    fn a_value_out_of_range_is_found_again_in_the_file() {
        check("[retry]\n\nbudget = 2.0\n", &["fleet.toml:3:1", "retry.budget", "from 0 to 1"]);
    }

    #[test]
    fn two_instances_of_one_name_are_a_mistake() {
        let one = "[[instance]]\ninstance_id = \"a\"\nhost = \"h\"\nport = 1\nmodel_name = \"m\"\n";
        check(&one.repeat(2), &["fleet.toml:6:1", "second instance is called `a`"]);
    }
}
