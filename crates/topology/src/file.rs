//! Topologies that people write down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::matrix::{Contradiction, Matrix, Relation, Speeds, join};
use crate::{CpuSet, Gpu, Host, Nic, SmiError, Topology, UnknownPreset, preset, smi};

/// A file that is no topology.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or a field is not as expected.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// The text of `nvidia-smi topo -m` that it names is none.
    #[error("{path}: {source}")]
    Smi {
        /// The file with the text.
        path: PathBuf,
        /// Where it is wrong.
        source: SmiError,
    },
    /// It names a preset that is not there.
    #[error(transparent)]
    Preset(#[from] UnknownPreset),
    /// Links contradict each other.
    #[error("host `{host}`: {source}")]
    Contradiction {
        /// The host.
        host: String,
        /// The pair.
        source: Contradiction,
    },
    /// Something cannot be.
    #[error("{0}")]
    Wrong(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// GB/s in one direction of the NVLink domain that joins all hosts, if one does.
    nvlink_domain_gb_per_s: Option<f64>,
    host: Vec<HostEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    rack: Option<String>,
    /// So many alike, named `name-0`, `name-1`, …
    #[serde(default = "one")]
    count: u32,
    /// What its devices are: a preset, …
    preset: Option<String>,
    /// … a file with the text of `nvidia-smi topo -m`, …
    topo: Option<PathBuf>,
    /// … or a list.
    #[serde(default)]
    gpus: Vec<GpuEntry>,
    #[serde(default)]
    nics: Vec<String>,
    /// How any two GPUs are joined that no link names: NV#, PIX, PXB, PHB, NODE, SYS.
    gpu_links: Option<String>,
    #[serde(default)]
    links: Vec<LinkEntry>,
    /// What all GPUs of the host are, where the rest does not tell.
    model: Option<String>,
    speeds: Option<Speeds>,
}

const fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuEntry {
    name: String,
    model: Option<String>,
    numa: Option<u32>,
    #[serde(default)]
    cpus: CpuSet,
    memory_gib: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    between: [String; 2],
    relation: String,
}

impl Topology {
    /// Reads a topology: TOML, or the text of `nvidia-smi topo -m` by its content.
    ///
    /// # Errors
    /// What cannot be read or cannot be.
    pub fn from_file(path: &Path) -> Result<Self, FileError> {
        let text = read(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        if path.extension().is_some_and(|ending| ending == "toml") {
            return Self::from_toml(&text, folder);
        }
        let named = |source| FileError::Smi { path: path.to_owned(), source };
        Self::from_smi(&text, &Speeds::default(), None).map_err(named)
    }

    /// Reads one host from the text of `nvidia-smi topo -m`, with what the text does not tell: speeds,
    /// and what its GPUs are.
    ///
    /// # Errors
    /// The line and the column that are not as expected.
    pub fn from_smi(text: &str, speeds: &Speeds, model: Option<&str>) -> Result<Self, SmiError> {
        let mut matrix = smi::read(text)?;
        matrix.gpus.iter_mut().for_each(|gpu| gpu.model = model.map(str::to_owned));
        let host = Host { name: "host".to_owned(), rack: None };
        Ok(join(vec![(host, matrix, *speeds)], None))
    }

    /// Reads a topology from TOML; files that it names are sought in `folder`.
    ///
    /// ```
    /// use sagellm_topology::Topology;
    ///
    /// let two = Topology::from_toml(r#"
    ///     [[host]]
    ///     name = "node"
    ///     rack = "r1"
    ///     count = 2
    ///     preset = "hgx-h100"
    /// "#, ".".as_ref())?;
    /// assert_eq!(two.gpus().len(), 16);
    /// # Ok::<(), sagellm_topology::FileError>(())
    /// ```
    ///
    /// # Errors
    /// What cannot be read or cannot be.
    pub fn from_toml(text: &str, folder: &Path) -> Result<Self, FileError> {
        let file: File = toml::from_str(text)?;
        let mut hosts = Vec::new();
        if let Some(found) = file.nvlink_domain_gb_per_s.filter(|found| !positive(*found)) {
            let expected = "expected a number above 0";
            return Err(FileError::Wrong(format!("nvlink_domain_gb_per_s = {found}: {expected}")));
        }
        let mut names = BTreeSet::new();
        for entry in &file.host {
            /// More of a kind than one plans for.
            const MOST: u32 = 256;
            if !(1..=MOST).contains(&entry.count) {
                return entry.wrong(format!("count = {}: expected 1 to {MOST}", entry.count));
            }
            let (matrix, speeds) = entry.read(folder)?;
            for number in 0..entry.count {
                let name = match entry.count {
                    1 => entry.name.clone(),
                    _ => format!("{}-{number}", entry.name),
                };
                if !names.insert(name.clone()) {
                    return Err(FileError::Wrong(format!("two hosts are called `{name}`")));
                }
                hosts.push((Host { name, rack: entry.rack.clone() }, matrix.clone(), speeds));
            }
        }
        if hosts.iter().all(|(_, matrix, _)| matrix.gpus.is_empty()) {
            return Err(FileError::Wrong("there is no GPU".to_owned()));
        }
        Ok(join(hosts, file.nvlink_domain_gb_per_s))
    }
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path)
        .map_err(|source| FileError::Read { path: path.to_owned(), source })
}

impl HostEntry {
    fn wrong<T>(&self, message: String) -> Result<T, FileError> {
        Err(FileError::Wrong(format!("host `{}`: {message}", self.name)))
    }

    fn read(&self, folder: &Path) -> Result<(Matrix, Speeds), FileError> {
        let ways = [self.preset.is_some(), self.topo.is_some(), !self.gpus.is_empty()];
        if ways.iter().filter(|given| **given).count() != 1 {
            return self.wrong("expected one of preset, topo and gpus".to_owned());
        }
        let listed = self.gpu_links.is_some() || !self.links.is_empty() || !self.nics.is_empty();
        if self.gpus.is_empty() && listed {
            return self.wrong("gpu_links, links and nics belong to listed gpus".to_owned());
        }
        if let Some(gib) =
            self.gpus.iter().filter_map(|gpu| gpu.memory_gib).find(|gib| !positive(*gib))
        {
            return self.wrong(format!("memory_gib = {gib}: expected a number above 0"));
        }
        let (mut matrix, usual) = if let Some(name) = &self.preset {
            preset::host(name)?
        } else if let Some(file) = &self.topo {
            let path = folder.join(file);
            let text = read(&path)?;
            let matrix = smi::read(&text).map_err(|source| FileError::Smi { path, source })?;
            (matrix, Speeds::default())
        } else {
            (self.listed()?, Speeds::default())
        };
        for gpu in &mut matrix.gpus {
            gpu.model = gpu.model.take().or_else(|| self.model.clone());
        }
        let speeds = self.speeds.unwrap_or(usual);
        for (field, value) in [
            ("nvlink", speeds.nvlink),
            ("pcie", speeds.pcie),
            ("smp", speeds.smp),
            ("network", speeds.network),
            ("network_latency_us", speeds.network_latency_us),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return self
                    .wrong(format!("speeds.{field} = {value}: expected a number, not below 0"));
            }
        }
        Ok((matrix, speeds))
    }

    fn listed(&self) -> Result<Matrix, FileError> {
        let gpu = |(index, entry): (usize, &GpuEntry)| Gpu {
            name: entry.name.clone(),
            model: entry.model.clone(),
            host: 0,
            index: index as u32,
            numa: entry.numa,
            cpus: entry.cpus.clone(),
            bus_id: None,
            memory_bytes: entry.memory_gib.map(|gib| (gib * 1_073_741_824.0) as u64),
        };
        let gpus: Vec<Gpu> = self.gpus.iter().enumerate().map(gpu).collect();
        let nic = |name: &String| Nic { name: name.clone(), host: 0 };
        let nics: Vec<Nic> = self.nics.iter().map(nic).collect();
        let names: Vec<&str> = gpus
            .iter()
            .map(|gpu| gpu.name.as_str())
            .chain(nics.iter().map(|nic| nic.name.as_str()))
            .collect();
        if let Some(place) = (0..names.len()).find(|&place| names[..place].contains(&names[place]))
        {
            return self.wrong(format!("two devices are called `{}`", names[place]));
        }
        let relation = |text: &str| match Relation::parse(text) {
            Some(relation) if relation != Relation::Same => Ok(relation),
            _ => self.wrong(format!(
                "relation `{text}`: expected NV and a number, PIX, PXB, PHB, NODE or SYS"
            )),
        };
        let usual = self.gpu_links.as_deref().map(relation).transpose()?;
        let count = names.len();
        let between = |a: usize, b: usize| match usual {
            _ if a == b => Relation::Same,
            Some(usual) if a < gpus.len() && b < gpus.len() => usual,
            _ => Relation::System,
        };
        let mut relations: Vec<Vec<Relation>> =
            (0..count).map(|a| (0..count).map(|b| between(a, b)).collect()).collect();
        let mut said: Vec<(usize, usize, Relation)> = Vec::new();
        for link in &self.links {
            let place = |name: &String| match names.iter().position(|known| known == name) {
                Some(place) => Ok(place),
                None => self.wrong(format!("a link names `{name}`: expected {}", names.join(", "))),
            };
            let [a, b] = [place(&link.between[0])?, place(&link.between[1])?];
            let relation = relation(&link.relation)?;
            if a == b {
                return self.wrong(format!("a link joins `{}` to itself", names[a]));
            }
            let (low, high) = (a.min(b), a.max(b));
            let before = said.iter().find(|other| (other.0, other.1) == (low, high));
            if let Some(&(_, _, there)) = before.filter(|before| before.2 != relation) {
                let [a, b] = [names[a].to_owned(), names[b].to_owned()];
                let source = Contradiction::of_pair(&a, &b, there, relation);
                return Err(FileError::Contradiction { host: self.name.clone(), source });
            }
            said.push((low, high, relation));
            relations[a][b] = relation;
            relations[b][a] = relation;
        }
        Ok(Matrix { gpus, nics, relations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: &str = r#"
        [[host]]
        name = "box"
        gpus = [
            { name = "GPU0", model = "MI300X", numa = 0, cpus = "0-47", memory_gib = 192.0 },
            { name = "GPU1", model = "MI300X", numa = 1, cpus = "48-95" },
        ]
        nics = ["bnxt0"]
        gpu_links = "NV1"
        links = [{ between = ["GPU0", "bnxt0"], relation = "PIX" }]
        speeds = { nvlink = 64.0 }
    "#;

    fn read(text: &str) -> Result<Topology, FileError> {
        Topology::from_toml(text, ".".as_ref())
    }

    #[test]
    fn gpus_of_any_maker_are_listed() {
        let pair = read(PAIR).expect("a topology");
        assert_eq!((pair.bandwidth(0, 1), pair.nearest_nic(0)), (64.0, Some(0)));
        assert_eq!(pair.gpus()[0].memory_bytes, Some(192 << 30));
    }

    #[test]
    fn mistakes_say_what_is_expected() {
        let check = |from: &str, to: &str, expected: &str| {
            let error = read(&PAIR.replace(from, to)).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("NV1", "XGMI", "expected NV and a number, PIX");
        check("\"bnxt0\"], relation", "\"eth0\"], relation", "expected GPU0, GPU1, bnxt0");
        check("name = \"GPU1\"", "name = \"GPU0\"", "two devices are called `GPU0`");
        check("nvlink = 64.0", "nvlink = -1.0", "speeds.nvlink = -1");
        check("numa = 0", "numa = \"x\"", "invalid type");
        let twice = r#"relation = "PIX" }, { between = ["bnxt0", "GPU0"], relation = "SYS" }"#;
        check(r#"relation = "PIX" }"#, twice, "bnxt0 to GPU0 is said to be PIX, GPU0 to bnxt0 SYS");
        check("gpu_links", "preset = \"nvl72\"\ngpu_links", "one of preset, topo and gpus");
        check("gpu_links", "count = 0\ngpu_links", "count = 0: expected 1 to 256");
        check("[[host]]", "nvlink_domain_gb_per_s = nan\n[[host]]", "expected a number above 0");
        check("192.0", "-192.0", "memory_gib = -192");
        let idle = "[[host]]\nname = \"a\"\npreset = \"hgx-h100\"\ngpu_links = \"SYS\"";
        let error = read(idle).expect_err("links of a preset").to_string();
        assert!(error.contains("belong to listed gpus"), "{error}");
    }
}
