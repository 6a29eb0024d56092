//! Which models there are, under which names.

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::{InstanceId, ModelId};

/// A model that a request may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its id.
    pub id: ModelId,
    /// The name under which engines serve it.
    pub name: Arc<str>,
    /// Whether the request used another name, which has to be replaced for the engine.
    pub aliased: bool,
}

/// A model as an engine says that it serves it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Offer {
    /// The name to ask for.
    pub name: String,
    /// The model that it adapts, if it is an adapter.
    pub parent: Option<String>,
    /// The longest context, in tokens, if the engine says.
    pub max_model_len: Option<u64>,
}

/// Who serves a name, and what each says of it. A name that nobody serves any more keeps its id.
type Entry = Vec<Server>;

#[derive(Clone, Debug)]
struct Server {
    instance: InstanceId,
    parent: Option<String>,
    max_model_len: Option<u64>,
}

/// The table of model names. A model's id is its place.
#[derive(Clone, Debug, Default)]
pub struct Models {
    names: IndexMap<Arc<str>, Entry, FxBuildHasher>,
    aliases: IndexMap<String, String, FxBuildHasher>,
}

impl Models {
    pub(super) fn new<'a>(aliases: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let own = |(alias, target): (&String, &String)| (alias.clone(), target.clone());
        Self { names: IndexMap::default(), aliases: aliases.into_iter().map(own).collect() }
    }

    /// Returns the id of `name`, a new one if it has none.
    pub(super) fn intern(&mut self, name: &str) -> ModelId {
        if let Some(place) = self.names.get_index_of(name) {
            return ModelId(place as u32);
        }
        let (place, _) = self.names.insert_full(name.into(), Entry::default());
        ModelId(place as u32)
    }

    /// Notes that an instance serves a model.
    pub(super) fn gained(&mut self, id: ModelId, instance: InstanceId) {
        self.names[id.0 as usize].push(Server { instance, parent: None, max_model_len: None });
    }

    /// Notes that an instance no longer serves a model.
    pub(super) fn lost(&mut self, id: ModelId, instance: InstanceId) {
        self.names[id.0 as usize].retain(|server| server.instance != instance);
    }

    /// Notes what an engine says of a model that it serves.
    pub(super) fn describe(&mut self, id: ModelId, instance: InstanceId, offer: &Offer) {
        let servers = &mut self.names[id.0 as usize];
        if let Some(server) = servers.iter_mut().find(|server| server.instance == instance) {
            server.parent.clone_from(&offer.parent);
            server.max_model_len = offer.max_model_len;
        }
    }

    /// Returns what engines say of a model: of its context what every one of them takes.
    pub(super) fn offer(&self, id: ModelId) -> Offer {
        let Some((name, servers)) = self.names.get_index(id.0 as usize) else {
            return Offer::default();
        };
        Offer {
            name: name.to_string(),
            parent: servers.iter().find_map(|server| server.parent.clone()),
            max_model_len: servers.iter().filter_map(|server| server.max_model_len).min(),
        }
    }

    /// Returns the model that is served under exactly this name.
    pub(super) fn served(&self, name: &str) -> Option<ModelId> {
        let (place, _, servers) = self.names.get_full(name)?;
        (!servers.is_empty()).then_some(ModelId(place as u32))
    }

    /// Returns the name of a model.
    pub fn name(&self, id: ModelId) -> &str {
        self.names.get_index(id.0 as usize).map_or("", |(name, _)| name)
    }

    /// Returns the model called `name`, if a registered instance serves it: by that name, by an
    /// alias, or by the alias `*`.
    pub fn resolve(&self, name: &str) -> Option<Resolved> {
        let served = |name: &str| {
            let id = self.served(name)?;
            Some((Arc::clone(self.names.get_index(id.0 as usize)?.0), id))
        };
        if let Some((name, id)) = served(name) {
            return Some(Resolved { id, name, aliased: false });
        }
        let target = self.aliases.get(name).or_else(|| self.aliases.get("*"))?;
        let (name, id) = served(target)?;
        Some(Resolved { id, name, aliased: true })
    }

    /// Returns the only model that is served, for requests that name none.
    pub fn only(&self) -> Option<Resolved> {
        let mut served = self.iter();
        match (served.next(), served.next()) {
            (Some((_, name)), None) => self.resolve(name),
            _ => self.resolve(self.aliases.get("*")?),
        }
    }

    /// Iterates over the names served, in the order in which they became known.
    pub fn iter(&self) -> impl Iterator<Item = (ModelId, &str)> {
        let all = self.names.iter().enumerate();
        all.filter(|(_, (_, servers))| !servers.is_empty())
            .map(|(place, (name, _))| (ModelId(place as u32), &**name))
    }

    /// Iterates over aliases and what they stand for, `*` left out.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(a, t)| (a.as_str(), t.as_str())).filter(|(a, _)| *a != "*")
    }
}
