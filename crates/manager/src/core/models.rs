//! Which models there are, under which names.

use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use sagellm_types::ModelId;

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

/// The table of model names.
#[derive(Clone, Debug, Default)]
pub struct Models {
    names: IndexMap<Arc<str>, ModelId, FxBuildHasher>,
    aliases: IndexMap<String, String, FxBuildHasher>,
}

impl Models {
    pub(super) fn new<'a>(aliases: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let own = |(alias, target): (&String, &String)| (alias.clone(), target.clone());
        Self { names: IndexMap::default(), aliases: aliases.into_iter().map(own).collect() }
    }

    /// Returns the id of `name`, a new one if it has none.
    pub(super) fn intern(&mut self, name: &str) -> ModelId {
        if let Some(&id) = self.names.get(name) {
            return id;
        }
        let id = ModelId(self.names.len() as u32);
        self.names.insert(name.into(), id);
        id
    }

    /// Returns the name of a model.
    pub fn name(&self, id: ModelId) -> &str {
        self.names.get_index(id.0 as usize).map_or("", |(name, _)| name)
    }

    /// Returns the model called `name`: as served, by an alias, or by the alias `*`.
    pub fn resolve(&self, name: &str) -> Option<Resolved> {
        let served =
            |name: &str| self.names.get_key_value(name).map(|(n, &id)| (Arc::clone(n), id));
        if let Some((name, id)) = served(name) {
            return Some(Resolved { id, name, aliased: false });
        }
        let target = self.aliases.get(name).or_else(|| self.aliases.get("*"))?;
        let (name, id) = served(target)?;
        Some(Resolved { id, name, aliased: true })
    }

    /// Returns the only model that is served, for requests that name none.
    pub fn only(&self) -> Option<Resolved> {
        if self.names.len() == 1 {
            return self.resolve(self.names.first()?.0);
        }
        self.resolve(self.aliases.get("*")?)
    }

    /// Iterates over the names served, in the order in which they became known.
    pub fn iter(&self) -> impl Iterator<Item = (ModelId, &str)> {
        self.names.iter().map(|(name, &id)| (id, &**name))
    }

    /// Iterates over aliases and what they stand for, `*` left out.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(a, t)| (a.as_str(), t.as_str())).filter(|(a, _)| *a != "*")
    }
}
