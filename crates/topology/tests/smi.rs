//! Texts of `nvidia-smi topo -m` of different machines: each is read, and says what its machine is.

use std::path::Path;

use sagellm_topology::{LinkKind, Speeds, Topology};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read_to_string(path).expect("committed")
}

fn read(name: &str) -> Topology {
    match Topology::from_smi(&fixture(&format!("{name}.txt")), &Speeds::default(), None) {
        Ok(topology) => topology,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[test]
fn every_text_is_read_and_names_where_its_figures_are_from() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("there") {
        let name = entry.expect("readable").file_name().into_string().expect("plain");
        let text = fixture(&name);
        assert!(text.contains("https://") || text.contains("# composed"), "{name} names no source");
        let topology = read(name.trim_end_matches(".txt"));
        let gpus = topology.gpus().len();
        assert!(gpus > 0, "{name}");
        for a in 0..gpus {
            for b in 0..gpus {
                assert!(topology.bandwidth(a, b) > 0.0, "{name}: {a} reaches {b}");
            }
        }
        count += 1;
    }
    assert!(count >= 20, "{count} texts");
}

/// GPUs, cards, GB/s between the first two GPUs, and NUMA nodes of the GPUs.
fn check(
    name: &str,
    gpus: usize,
    nics: usize,
    first: Option<(LinkKind, f64)>,
    numa: &[Option<u32>],
) {
    let topology = read(name);
    assert_eq!((topology.gpus().len(), topology.nics().len()), (gpus, nics), "{name}");
    if let Some((kind, gb_per_s)) = first {
        assert_eq!(
            (topology.kind(0, 1), topology.bandwidth(0, 1)),
            (Some(kind), gb_per_s),
            "{name}"
        );
    }
    let found: Vec<_> = topology.gpus().iter().map(|gpu| gpu.numa).collect();
    assert_eq!(found, numa, "{name}");
}

#[test]
fn machines_are_what_their_texts_say() {
    use LinkKind::{Nvlink, Pcie, Smp};
    let none = [None; 8];
    check("dgx1-v100", 8, 4, Some((Nvlink, 25.0)), &none);
    let a100 = [3, 3, 1, 1, 7, 7, 5, 5].map(Some);
    check("dgx-a100", 8, 12, Some((Nvlink, 300.0)), &a100);
    check("v100-4-aws-p3", 4, 0, Some((Nvlink, 25.0)), &[None; 4]);
    check("v100-4-power9", 4, 4, Some((Nvlink, 75.0)), &[Some(0), Some(0), Some(8), Some(8)]);
    check("a100-4-polaris", 4, 2, Some((Nvlink, 100.0)), &[3, 2, 1, 0].map(Some));
    check("h200-8-hgx", 8, 8, Some((Nvlink, 450.0)), &[0, 0, 0, 0, 1, 1, 1, 1].map(Some));
    check("h200-1-container", 1, 4, None, &[Some(1)]);
    check("gb200-4-tray", 4, 8, Some((Nvlink, 450.0)), &[0, 0, 1, 1].map(Some));
    check("gh200-4", 4, 0, Some((Nvlink, 150.0)), &[0, 1, 2, 3].map(Some));
    check("rtx3090-2", 2, 0, Some((Smp, 20.0)), &[None, Some(1)]);
    check("geforce-5-epyc", 5, 0, Some((Pcie, 32.0)), &[Some(0); 5]);
    check("l40s-1-kvm", 1, 0, None, &[Some(0)]);
    check("rtxpro6000-1-wsl2", 1, 0, None, &[None]);
    check("a100-mig-composed", 3, 1, Some((Nvlink, 300.0)), &[Some(0); 3]);
}

#[test]
fn cards_switches_and_cpus_are_found() {
    let h200 = read("h200-8-hgx");
    // What the legend calls the columns, by the PIX of each row.
    let nearest: Vec<&str> =
        (0..8).map(|gpu| h200.nics()[h200.nearest_nic(gpu).expect("one")].name.as_str()).collect();
    let distinct: std::collections::BTreeSet<_> = nearest.iter().collect();
    assert_eq!(distinct.len(), 8, "each has a card of its own: {nearest:?}");
    assert_eq!(h200.gpus()[7].cpus.to_string(), "64-127,192-255");
    let through = h200.path(0, 7).expect("joined").through;
    assert_eq!(through, ["GPU0", "NVSwitch", "GPU7"]);
    // A mesh without a switch: GPU0 and GPU5 have no link of their own.
    let dgx1 = read("dgx1-v100");
    assert_eq!(dgx1.kind(0, 5), Some(LinkKind::Smp));
    assert_eq!(dgx1.bandwidth(0, 3), 50.0);
    let group = dgx1.best_group(4, &[0, 1, 2, 3, 4, 5, 6, 7]).expect("eight are free");
    assert_eq!((group.gpus, group.gb_per_s), (vec![0, 1, 2, 3], 25.0));
    let pairs = read("a30-4-bridged");
    let groups = pairs.disjoint_groups(2, 2, &[0, 1, 2, 3]).expect("two pairs");
    assert!(groups.iter().all(|group| group.gb_per_s == 100.0), "{groups:?}");
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    let text = "\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV4\t0-7\nGPU1\tNV4\t X \t0-7\n";
    let fails = |text: &str| {
        let error = Topology::from_smi(text, &Speeds::default(), None).expect_err(text);
        (error.line, error.column, error.message)
    };
    assert!(Topology::from_smi(text, &Speeds::default(), None).is_ok());
    let check = |from: &str, to: &str, line, column, message: &str| {
        let (at, of, said) = fails(&text.replace(from, to));
        assert_eq!((at, of), (line, column), "{said}");
        assert!(said.contains(message), "{said}");
    };
    check(
        "GPU0\t X \tNV4",
        "GPU0\t X \tNVX",
        2,
        10,
        "`NVX` is no connection: expected X, NV and a number",
    );
    check("GPU1\tNV4\t X \t0-7\n", "", 2, 1, "GPU1 has a column and no row");
    check("GPU1\tNV4", "GPU1\tSYS", 3, 1, "GPU1 to GPU0 is said to be SYS, GPU0 to GPU1 NV4");
    check("GPU1\tNV4\t X \t0-7", "GPU2\tNV4\t X \t0-7", 3, 1, "GPU2 has no column");
    check(" X \tNV4\t0-7", " X \tNV4\tsome", 2, 1, "CPUs `some`: expected numbers");
    check("\tGPU0\tGPU1\tCPU", "\tGPU0\tGPU0\tCPU", 1, 7, "GPU0 has two columns");
    check("GPU0\t X ", "GPU0\tNV4", 2, 6, "GPU0 to GPU0 is `NV4`");
    let switch =
        "\tGPU0\tGPU1\tGPU2\nGPU0\t X \tPIX\tPIX\nGPU1\tPIX\t X \tSYS\nGPU2\tPIX\tSYS\t X \n";
    let (line, _, said) = fails(switch);
    assert_eq!(line, 3, "{said}");
    assert_eq!(said, "GPU1 and GPU2 are each said to be PIX to GPU0, and SYS to each other");
    assert_eq!(fails("").2, fails("nvidia-smi: command not found").2);
}
