//! The one place where settings are read: file, environment, flags, the later ones winning.
//!
//! Nothing else of the program reads the environment or a settings file. What comes out is typed
//! and valid; what cannot be is refused with the place where it stands and what is accepted.

mod backend;
mod error;
mod file;
mod overrides;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::Args;
use sagellm_gateway::GatewayConfig;
use sagellm_manager::{Config, ControlPlane};
use sagellm_routing::RouterConfig;
use sagellm_strategies::StrategyConfig;
use sagellm_types::{ExecutionInstance, Seed, Timestamp};

use crate::demo::DemoConfig;
pub(crate) use error::SettingsError;
use overrides::Override;
pub(crate) use overrides::RESERVED;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Settings {
    /// The HTTP server.
    pub(crate) gateway: GatewayConfig,
    /// Its sections stand at the top of a file.
    pub(crate) control_plane: Config,
    /// The engines: tables `[[instance]]`.
    pub(crate) instances: Vec<ExecutionInstance>,
    /// What `sagellm demo` runs.
    pub(crate) demo: DemoConfig,
}

/// Where settings come from; shared by the commands that use them.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// Settings file (TOML); `sagellm config default` prints one with every setting
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Which waiting request goes next: fifo, priority, slo_aware, cost_optimized, adaptive
    #[arg(long, value_name = "NAME", value_parser = StrategyConfig::parse)]
    pub(crate) strategy: Option<StrategyConfig>,
    /// Which instance takes it: load_balanced, power_of_two, round_robin, random, affinity, locality, …
    #[arg(long, value_name = "NAME", value_parser = RouterConfig::parse)]
    pub(crate) router: Option<RouterConfig>,
    /// Address of the gateway, such as 0.0.0.0:8080
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) listen: Option<SocketAddr>,
    /// The number from which all randomness is drawn
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Any other setting, by its name in the file: --set queue.max_waiting=10 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = Override::of_flag)]
    pub(crate) overrides: Vec<Override>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// The engines and the admin API, on the command line.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct FleetArgs {
    /// An engine, for example http://127.0.0.1:8000 (repeatable); what it serves is asked from it
    #[arg(long = "backend", value_name = "URL", num_args = 1.., value_parser = backend::instance)]
    pub(crate) backends: Vec<ExecutionInstance>,
}

/// The environment as far as it is ours: variables whose names begin with `SAGELLM_`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Reads our variables of the process, in the order of their names.
    pub(crate) fn read() -> Self {
        let mut ours: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("SAGELLM_"))
            .collect();
        ours.sort();
        Self(ours)
    }

    /// Returns the value of one of [`RESERVED`]; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value)
    }

    fn overrides(&self) -> impl Iterator<Item = Override> {
        self.0.iter().filter_map(|(name, value)| Override::of_variable(name, value))
    }
}

impl Settings {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// [`SettingsError`] says which of them is wrong, where, and what is accepted.
    pub(crate) fn load(
        args: &SettingsArgs,
        fleet: &FleetArgs,
        environment: &Environment,
    ) -> Result<Self, SettingsError> {
        let path =
            args.config.clone().or_else(|| environment.get("SAGELLM_CONFIG").map(Into::into));
        let text = path.as_deref().map(read_text).transpose()?.unwrap_or_default();
        let path = path.unwrap_or_default();
        let mut settings = Self::over(&text, &path, args, environment)?;
        let listed = environment.get("SAGELLM_BACKENDS").unwrap_or_default();
        for url in listed.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let origin = "SAGELLM_BACKENDS".to_owned();
            let instance = backend::instance(url)
                .map_err(|message| SettingsError::Override { origin, message })?;
            settings.instances.push(instance);
        }
        settings.instances.extend(fleet.backends.iter().cloned());
        settings.validate().map_err(SettingsError::Invalid)?;
        Ok(settings)
    }

    /// Reads environment and flags over the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn over(
        text: &str,
        path: &Path,
        args: &SettingsArgs,
        environment: &Environment,
    ) -> Result<Self, SettingsError> {
        let mut settings = file::parse(path, text)?;
        let changes: Vec<Override> =
            environment.overrides().chain(args.overrides.iter().cloned()).collect();
        if let Some(changed) = overrides::apply(text, &changes)? {
            settings = changed;
        }
        settings.take(args);
        settings.validate().map_err(SettingsError::Invalid)?;
        Ok(settings)
    }

    /// Reads one file, and neither environment nor flags.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn of_file(path: &Path) -> Result<Self, SettingsError> {
        file::parse(path, &read_text(path)?)
    }

    /// Reads the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// As [`Settings::load`].
    #[cfg(test)]
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        file::parse(path, text)
    }

    /// Returns the settings as a file would say them; secrets are left out.
    pub(crate) fn table(&self) -> toml::Table {
        fn of<T: serde::Serialize>(value: &T) -> toml::Value {
            toml::Value::try_from(value).expect("settings are plain values")
        }
        let mut table = match of(&self.control_plane) {
            toml::Value::Table(table) => table,
            _ => unreachable!("a struct is a table"),
        };
        table.insert("gateway".to_owned(), of(&self.gateway));
        table.insert("instance".to_owned(), of(&self.instances));
        table.insert("demo".to_owned(), of(&self.demo));
        table
    }

    /// Takes the settings that have a flag of their own. A strategy or router that the file names
    /// too keeps the file's settings of it.
    fn take(&mut self, args: &SettingsArgs) {
        let core = &mut self.control_plane;
        if let Some(strategy) = args.strategy.clone().filter(|s| s.name() != core.strategy.name()) {
            core.strategy = strategy;
        }
        if let Some(router) = args.router.clone().filter(|r| r.name() != core.router.name()) {
            core.router = router;
        }
        if let Some(listen) = args.listen {
            self.gateway.listen = listen;
        }
        if let Some(seed) = args.seed {
            core.seed = Seed(seed);
        }
    }

    /// Returns what is wrong with the settings as a whole; the message begins with the setting.
    fn validate(&self) -> Result<(), String> {
        self.control_plane.validate().map_err(|error| error.to_string())?;
        self.demo.validate()?;
        let names = self.instances.iter().map(|instance| &instance.instance_id);
        for (i, name) in names.clone().enumerate() {
            if names.clone().take(i).any(|other| other == name) {
                return Err(format!("instance = two are called `{name}`: names must differ"));
            }
        }
        // Whether the control plane takes them is the control plane's to say.
        let mut core = ControlPlane::new(&self.control_plane, Timestamp::ZERO);
        for instance in &self.instances {
            core.register(instance.clone(), Timestamp::ZERO).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Returns the names that may stand at the top of a file.
pub(crate) fn sections() -> impl Iterator<Item = &'static str> {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let config = serde_json::to_value(Config::default()).expect("settings are plain values");
        let fields = config.as_object().into_iter().flat_map(serde_json::Map::keys).cloned();
        fields.chain(["gateway", "instance", "demo"].map(str::to_owned)).collect()
    });
    NAMES.iter().map(String::as_str)
}

fn read_text(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(list: &[(&str, &str)]) -> Environment {
        Environment(list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn flags_win_over_the_environment() {
        let args = SettingsArgs { seed: Some(3), ..SettingsArgs::default() };
        let environment = variables(&[
            ("SAGELLM_BACKENDS", "http://a:1, http://b:2"),
            ("SAGELLM_ROUTER", "random"),
            ("SAGELLM_SEED", "2"),
        ]);
        let fleet = FleetArgs { backends: vec![backend::instance("http://c:3").expect("a URL")] };
        let settings = Settings::load(&args, &fleet, &environment).expect("nothing is wrong");
        assert_eq!(settings.control_plane.seed, Seed(3));
        assert_eq!(settings.control_plane.router.name(), "random");
        let names: Vec<&str> = settings.instances.iter().map(|i| i.instance_id.as_str()).collect();
        assert_eq!(names, ["a:1", "b:2", "c:3"]);
    }

    #[test]
    fn one_engine_cannot_be_given_twice() {
        let environment = variables(&[("SAGELLM_BACKENDS", "http://a:1,http://a:1")]);
        let error = Settings::load(&SettingsArgs::default(), &FleetArgs::default(), &environment);
        assert!(error.expect_err("twice").to_string().contains("two are called `a:1`"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let args = SettingsArgs { config: Some("none.toml".into()), ..SettingsArgs::default() };
        let error = Settings::load(&args, &FleetArgs::default(), &Environment::default());
        assert!(error.expect_err("missing").to_string().contains("none.toml"));
    }

    #[test]
    fn a_strategy_keeps_what_the_file_says_of_it() {
        let mut settings = Settings::default();
        let tuned = r#"{"slo_aware":{"refuse_hopeless":true}}"#;
        settings.control_plane.strategy = serde_json::from_str(tuned).expect("a strategy");
        let before = settings.control_plane.strategy.clone();
        let named = |name| SettingsArgs {
            strategy: StrategyConfig::parse(name).ok(),
            ..Default::default()
        };
        settings.take(&named("slo_aware"));
        assert_eq!(settings.control_plane.strategy, before);
        settings.take(&named("fifo"));
        assert_eq!(settings.control_plane.strategy, StrategyConfig::Fifo);
    }
}
