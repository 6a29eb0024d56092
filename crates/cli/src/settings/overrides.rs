//! What the environment and flags change in the settings of the file.
//!
//! `SAGELLM_QUEUE__MAX_WAITING=10` and `--set queue.max_waiting=10` are the same change: a path and
//! a value. A value is read as TOML, and as plain text where that does not fit.

use std::path::Path;

use toml::{Table, Value};

use super::{Settings, SettingsError, file};

/// The beginning of all our variables.
const PREFIX: &str = "SAGELLM_";

/// Our variables that are no settings: they say where settings are, or belong to a command.
pub(crate) const RESERVED: [(&str, &str); 5] = [
    ("SAGELLM_CONFIG", "the settings file, where no --config is given"),
    ("SAGELLM_BACKENDS", "engines, separated by commas, as with --backend"),
    ("SAGELLM_LOG", "what is logged: `info`, `debug`, `sagellm_gateway=debug,warn`, …"),
    ("SAGELLM_URL", "the server that `status` and `replay` talk to"),
    ("SAGELLM_TOKEN", "the token of the admin API, for `status`"),
];

/// One setting changed from outside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// The variable or flag, as the user wrote it.
    pub(crate) origin: String,
    /// The names of the tables and the setting.
    pub(crate) path: Vec<String>,
    /// The text of the value.
    pub(crate) value: String,
}

impl Override {
    /// Returns the change that a variable of the environment asks for; `None` if it is not ours, or
    /// no setting.
    pub(crate) fn of_variable(name: &str, value: &str) -> Option<Self> {
        let path = name.strip_prefix(PREFIX)?;
        if RESERVED.iter().any(|(reserved, _)| *reserved == name) {
            return None;
        }
        let path = path.split("__").map(str::to_ascii_lowercase).collect();
        Some(Self { origin: format!("{name}={value}"), path, value: value.to_owned() })
    }

    /// Reads the change of a flag `--set queue.max_waiting=10`.
    ///
    /// # Errors
    /// If there is no `=`.
    pub(crate) fn of_flag(text: &str) -> Result<Self, String> {
        let (path, value) = text
            .split_once('=')
            .ok_or("expected KEY=VALUE, for example queue.max_waiting=10".to_owned())?;
        let path = path.trim().split('.').map(str::to_owned).collect();
        Ok(Self { origin: format!("--set {text}"), path, value: value.trim().to_owned() })
    }

    /// Makes the change in `table`.
    fn apply(&self, table: &mut Table, value: Value) {
        let Some((name, above)) = self.path.split_last() else { return };
        let mut table = table;
        for part in above {
            let inner = table.entry(part.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                // A name such as "adaptive" gives way to a table with its settings.
                *inner = Value::Table(Table::new());
            }
            let Value::Table(inner) = inner else { unreachable!("it was made a table above") };
            table = inner;
        }
        table.insert(name.clone(), value);
    }
}

/// Makes the changes one after the other in the settings of `text`.
///
/// # Errors
/// [`SettingsError::Override`] names the change that does not fit.
pub(crate) fn apply(text: &str, overrides: &[Override]) -> Result<Option<Settings>, SettingsError> {
    let mut table: Table =
        toml::from_str(text).map_err(|e| SettingsError::Invalid(e.to_string()))?;
    let mut settings = None;
    for change in overrides {
        let text = Value::String(change.value.clone());
        let typed = toml::from_str::<Table>(&format!("value = {}", change.value))
            .ok()
            .and_then(|mut parsed| parsed.remove("value"));
        let attempt = |value: Value| {
            let mut changed = table.clone();
            change.apply(&mut changed, value);
            read(&changed).map(|settings| (changed, settings))
        };
        let result = match typed {
            Some(typed) => attempt(typed).or_else(|error| attempt(text).map_err(|_| error)),
            None => attempt(text),
        };
        let (changed, now) = result.map_err(|message| SettingsError::Override {
            origin: change.origin.clone(),
            message,
        })?;
        (table, settings) = (changed, Some(now));
    }
    Ok(settings)
}

/// Reads a changed table as a file is read; a mistake has no line then.
fn read(table: &Table) -> Result<Settings, String> {
    let text = toml::to_string(table).map_err(|error| error.to_string())?;
    file::parse(Path::new(""), &text).map_err(|error| match error {
        SettingsError::File(located) => located.message().to_owned(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let overrides: Vec<Override> = variables
            .iter()
            .filter_map(|(name, value)| Override::of_variable(name, value))
            .collect();
        let changed = apply(file, &overrides).map_err(|error| error.to_string())?;
        Ok(changed.expect("something was changed"))
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        let file = "strategy = \"fifo\"\n[queue]\nmax_waiting = 5\nbackfill = 2\n";
        let settings = check(file, &[("SAGELLM_QUEUE__MAX_WAITING", "9")]).expect("it fits");
        let queue = &settings.control_plane.queue;
        assert_eq!((queue.max_waiting, queue.backfill), (9, 2));
        assert_eq!(settings.control_plane.strategy.name(), "fifo");
    }

    #[test]
    fn a_name_gives_way_to_a_table() {
        let name = "SAGELLM_STRATEGY__ADAPTIVE__DWELL_MS";
        let settings = check("strategy = \"fifo\"\n", &[(name, "9000")]).expect("it fits");
        assert_eq!(settings.control_plane.strategy.name(), "adaptive");
    }

    #[test]
    fn a_number_may_be_text() {
        let token = ("SAGELLM_GATEWAY__ADMIN__TOKEN", "12345");
        let settings = check("", &[token]).expect("it fits");
        assert_eq!(settings.gateway.admin.token.as_deref(), Some("12345"));
    }

    #[test]
    fn a_mistake_names_the_variable() {
        let error = check("", &[("SAGELLM_QUEUE__MAX_WAITIN", "9")]).expect_err("a typo");
        assert!(error.starts_with("SAGELLM_QUEUE__MAX_WAITIN=9: "), "{error}");
        assert!(error.contains("`max_waiting`"), "{error}");
        let error = check("", &[("SAGELLM_ROUTER", "best")]).expect_err("unknown");
        assert!(error.contains("known are: load_balanced"), "{error}");
    }

    #[test]
    fn variables_of_others_and_of_commands_are_left_alone() {
        assert_eq!(Override::of_variable("PATH", "/bin"), None);
        assert_eq!(Override::of_variable("SAGELLM_URL", "http://h"), None);
    }

    #[test]
    fn a_flag_needs_a_value() {
        let change = Override::of_flag("queue.max_waiting = 10").expect("complete");
        assert_eq!((change.path.len(), change.value.as_str()), (2, "10"));
        assert!(Override::of_flag("queue").is_err());
    }
}
