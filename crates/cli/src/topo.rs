//! `sagellm topo`: the GPUs of machines and the ways between them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use sagellm_perf::Gpu;
use sagellm_topology::{Discover, Driver, Speeds, Sysfs, Topology};

use crate::output;

/// Show the GPUs of machines and the ways between them
///
/// NVLink, PCIe switches, NUMA nodes, network cards and hosts, from the text of `nvidia-smi topo -m`,
/// from a TOML file, or of a machine as it is sold. Which GPUs belong together, and what lies between
/// two of them.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  nvidia-smi topo -m > node.txt; sagellm topo --from node.txt --gpu H100
  sagellm topo --here
  sagellm topo --preset hgx-h100 --hosts 2 --tree
  sagellm topo --from cluster.toml --groups 4x2
  sagellm topo --preset pcie-l40s --path 0,7
  sagellm topo --preset hgx-a100 --dot | dot -Tsvg > hgx-a100.svg

docs/TOPOLOGY.md says how a file is written.")]
pub(crate) struct TopoArgs {
    /// The text of `nvidia-smi topo -m`, or a TOML file
    #[arg(long, value_name = "FILE", group = "source")]
    from: Option<PathBuf>,
    /// This machine, as its driver and its kernel tell
    #[arg(long, group = "source")]
    here: bool,
    /// A machine as it is sold: hgx-a100, hgx-h100, hgx-h200, hgx-b200, hgx-b300, nvl72, pcie-l40s,
    /// pcie-4090, aws-g5, aws-g5-48xlarge
    #[arg(long, value_name = "NAME", group = "source")]
    preset: Option<String>,
    /// So many of the preset
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "preset",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    hosts: u32,
    /// What the GPUs of the text are: sets the speed of their links
    #[arg(long, value_name = "NAME", requires = "from")]
    gpu: Option<String>,
    /// Print the tree of hosts, NUMA nodes, switches and devices only
    #[arg(long, group = "form")]
    tree: bool,
    /// Print the graph for Graphviz only
    #[arg(long, group = "form")]
    dot: bool,
    /// Print devices, links and bandwidths as JSON only
    #[arg(long, group = "form")]
    json: bool,
    /// Print the best disjoint groups only: SIZExCOUNT, or SIZE for one
    #[arg(long, value_name = "SIZE[xCOUNT]", group = "form", value_parser = groups)]
    groups: Option<(usize, usize)>,
    /// Print what lies between two GPUs only, by their places: A,B
    #[arg(long, value_name = "A,B", group = "form", value_parser = pair)]
    path: Option<(usize, usize)>,
}

fn groups(text: &str) -> Result<(usize, usize), String> {
    let (size, count) = text.split_once('x').unwrap_or((text, "1"));
    match (size.parse(), count.parse()) {
        (Ok(size), Ok(count)) if size > 0 && count > 0 => Ok((size, count)),
        _ => Err("expected GPUs of a group, and how many groups: 4x2".to_owned()),
    }
}

fn pair(text: &str) -> Result<(usize, usize), String> {
    let places = text.split_once(',').map(|(a, b)| (a.trim().parse(), b.trim().parse()));
    match places {
        Some((Ok(a), Ok(b))) => Ok((a, b)),
        _ => Err("expected the places of two GPUs: 0,7".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// If the topology cannot be read, or what is asked for is not there.
pub(crate) fn run(args: &TopoArgs) -> Result<()> {
    let topology = read(args)?;
    if args.tree {
        return output::print(&topology.tree());
    }
    if args.dot {
        return output::print(&topology.dot());
    }
    if args.json {
        let mut text = serde_json::to_string_pretty(&topology.view()).context("plain values")?;
        text.push('\n');
        return output::print(&text);
    }
    if let Some((size, count)) = args.groups {
        return output::print(&best_groups(&topology, size, count)?);
    }
    if let Some((a, b)) = args.path {
        return output::print(&between(&topology, a, b)?);
    }
    output::print(&format!("{}\n{}", topology.matrix(), topology.tree()))
}

fn read(args: &TopoArgs) -> Result<Topology> {
    if let Some(name) = &args.preset {
        return Ok(Topology::preset(name, args.hosts)?);
    }
    if args.here {
        return here();
    }
    let path = args.from.as_deref().context("expected --from, --here or --preset")?;
    let Some(name) = &args.gpu else {
        return Ok(Topology::from_file(path)?);
    };
    if path.extension().is_some_and(|ending| ending == "toml") {
        bail!("--gpu is for the text of nvidia-smi: a TOML file says what its GPUs are");
    }
    let gpu = Gpu::named(name)?;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // One link has 25 GB/s in one direction up to Hopper, 50 from Blackwell on.
    let nvlink = if gpu.link.is_some_and(|all| all >= 1_800.0) { 50.0 } else { 25.0 };
    let speeds = Speeds { nvlink, pcie: gpu.pcie, network: gpu.nic, ..Speeds::default() };
    Topology::from_smi(&text, &speeds, Some(&gpu.name)).with_context(|| path.display().to_string())
}

/// Asks the driver, and without one the kernel alone, which knows GPUs of other makers too.
pub(crate) fn here() -> Result<Topology> {
    match Driver::default().discover() {
        Ok(found) => Ok(found),
        Err(error) => Sysfs::default().discover().map_err(|_| error.into()),
    }
}

fn best_groups(topology: &Topology, size: usize, count: usize) -> Result<String> {
    let all: Vec<usize> = (0..topology.gpus().len()).collect();
    let Some(groups) = topology.disjoint_groups(count, size, &all) else {
        bail!("{count} groups of {size} are more than the {} GPUs that there are", all.len());
    };
    let mut out = String::new();
    for group in &groups {
        let name = |&gpu: &usize| {
            let found = &topology.gpus()[gpu];
            match topology.hosts().len() {
                1 => found.name.clone(),
                _ => format!("{}/{}", topology.hosts()[found.host].name, found.name),
            }
        };
        let names: Vec<String> = group.gpus.iter().map(name).collect();
        let width = match group.gb_per_s.is_finite() {
            true => format!("{} GB/s", group.gb_per_s),
            false => "alone".to_owned(),
        };
        let nodes = group.numa_nodes;
        let plural = if nodes == 1 { "" } else { "s" };
        out += &format!("{}  {width}, {nodes} NUMA node{plural}\n", names.join(" "));
    }
    let used: Vec<usize> = groups.iter().flat_map(|group| group.gpus.clone()).collect();
    let left: Vec<usize> = all.into_iter().filter(|gpu| !used.contains(gpu)).collect();
    if !left.is_empty() {
        let share = topology.fragmentation(&left) * 100.0;
        out += &format!("{} GPUs are left, {share:.0} % of them apart from the rest\n", left.len());
    }
    Ok(out)
}

fn between(topology: &Topology, a: usize, b: usize) -> Result<String> {
    let count = topology.gpus().len();
    if let Some(place) = [a, b].into_iter().find(|&place| place >= count) {
        bail!("GPU {place}: expected a place from 0 to {}", count - 1);
    }
    let Some(path) = topology.path(a, b) else {
        return Ok("there is no way\n".to_owned());
    };
    let way = path.through.join(" – ");
    Ok(match path.bottleneck {
        None => format!("{way}: the same GPU\n"),
        Some(kind) => format!(
            "{way}: {} GB/s in one direction ({}), {:.1} µs\n",
            path.gb_per_s,
            kind.name(),
            path.latency_us
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_paths_are_shown() {
        let machine = Topology::preset("hgx-h100", 1).expect("listed");
        let shown = best_groups(&machine, 4, 1).expect("they fit");
        assert!(shown.starts_with("GPU0 GPU1 GPU2 GPU3  450 GB/s, 1 NUMA node\n"), "{shown}");
        assert!(shown.contains("4 GPUs are left, 0 % of them apart"), "{shown}");
        let way = between(&machine, 0, 7).expect("joined");
        assert_eq!(way, "GPU0 – NVSwitch – GPU7: 450 GB/s in one direction (NVLink), 1.0 µs\n");
        assert!(between(&machine, 0, 8).expect_err("none").to_string().contains("from 0 to 7"));
        assert!(best_groups(&machine, 4, 3).expect_err("too many").to_string().contains("8 GPUs"));
    }
}
