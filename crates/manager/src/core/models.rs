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

/// What is known of a name.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// Registered instances that serve it; a name that nobody serves any more keeps its id.
    instances: u32,
    parent: Option<String>,
    /// The least that any of them has said.
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

    /// Notes that one instance more serves a model.
    pub(super) fn gained(&mut self, id: ModelId) {
        self.names[id.0 as usize].instances += 1;
    }

    /// Notes that one instance less serves a model.
    pub(super) fn lost(&mut self, id: ModelId) {
        let entry = &mut self.names[id.0 as usize];
        entry.instances -= 1;
        if entry.instances == 0 {
            *entry = Entry::default();
        }
    }

    /// Notes what an engine says of a model that it serves.
    pub(super) fn describe(&mut self, id: ModelId, offer: &Offer) {
        let entry = &mut self.names[id.0 as usize];
        entry.parent.clone_from(&offer.parent);
        let told = [entry.max_model_len, offer.max_model_len].into_iter().flatten();
        entry.max_model_len = told.min();
    }

    /// Returns what engines say of a model.
    pub(super) fn offer(&self, id: ModelId) -> Offer {
        let Some((name, entry)) = self.names.get_index(id.0 as usize) else {
            return Offer::default();
        };
        let Entry { parent, max_model_len, .. } = entry.clone();
        Offer { name: name.to_string(), parent, max_model_len }
    }

    /// Returns the name of a model.
    pub fn name(&self, id: ModelId) -> &str {
        self.names.get_index(id.0 as usize).map_or("", |(name, _)| name)
    }

    /// Returns the model called `name`, if a registered instance serves it: by that name, by an
    /// alias, or by the alias `*`.
    pub fn resolve(&self, name: &str) -> Option<Resolved> {
        let served = |name: &str| {
            let (place, name, entry) = self.names.get_full(name)?;
            (entry.instances > 0).then(|| (Arc::clone(name), ModelId(place as u32)))
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
        all.filter(|(_, (_, entry))| entry.instances > 0)
            .map(|(place, (name, _))| (ModelId(place as u32), &**name))
    }

    /// Iterates over aliases and what they stand for, `*` left out.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(a, t)| (a.as_str(), t.as_str())).filter(|(a, _)| *a != "*")
    }
}
