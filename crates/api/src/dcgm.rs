//! What a DCGM exporter's `/metrics` page says of the GPUs of a machine.
//!
//! Reads `DCGM_FI_DEV_GPU_UTIL` (percent) and `DCGM_FI_DEV_FB_USED` (MiB). GPUs are told apart by the
//! labels `gpu`, `UUID` and `pci_bus_id`. Samples of a part of a GPU (MIG, label `GPU_I_ID`) are left
//! out: what a part does says nothing of the whole.

use crate::metrics::{Labels, split_sample};

/// One GPU; a figure that is not on the page is `None`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DcgmGpu {
    /// Its device index.
    pub index: Option<u32>,
    /// Its UUID, such as `GPU-5fd4…`; empty if the page does not tell.
    pub uuid: String,
    /// Its PCI bus id, such as `00000000:3B:00.0`; empty if the page does not tell.
    pub bus_id: String,
    /// Utilisation, 0 to 1.
    pub utilization: Option<f64>,
    /// Memory in use, in MiB.
    pub memory_used_mib: Option<f64>,
}

/// The GPUs of a page.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct DcgmPage {
    /// In the order in which the page names them.
    pub gpus: Vec<DcgmGpu>,
}

/// Larger numbers are DCGM's words for "not supported", not MiB.
const MOST_MIB: f64 = 1e9;

impl DcgmPage {
    /// Reads a page; `None` if it says neither utilisation nor memory of any GPU.
    pub fn parse(page: &str) -> Option<Self> {
        let mut found = Self::default();
        for line in page.lines() {
            if let Some(line) = line.strip_prefix("DCGM_FI_DEV_") {
                found.read(line);
            }
        }
        (!found.gpus.is_empty()).then_some(found)
    }

    /// Returns the GPUs that an operator calls `name`: its index, UUID or PCI bus id. More than one
    /// if the page is of several machines.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &DcgmGpu> {
        let index: Option<u32> = name.parse().ok();
        self.gpus.iter().filter(move |gpu| match index {
            Some(_) => gpu.index == index,
            None => gpu.uuid.eq_ignore_ascii_case(name) || same_bus(&gpu.bus_id, name),
        })
    }

    /// Reads a sample, from behind `DCGM_FI_DEV_`.
    fn read(&mut self, line: &str) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let name = &line[..end];
        if !matches!(name, "GPU_UTIL" | "FB_USED") {
            return;
        }
        let Some((labels, value)) = split_sample(&line[end..]) else { return };
        let (mut index, mut uuid, mut bus_id) = (None, "", "");
        for (label, value) in Labels(labels) {
            match label {
                "gpu" => index = value.parse().ok(),
                "UUID" => uuid = value,
                "pci_bus_id" => bus_id = value,
                "GPU_I_ID" if !value.is_empty() => return,
                _ => {}
            }
        }
        let names = (index, uuid, bus_id);
        let known = |gpu: &DcgmGpu| (gpu.index, &*gpu.uuid, &*gpu.bus_id) == names;
        let gpu = match self.gpus.iter().position(known) {
            Some(place) => &mut self.gpus[place],
            None => {
                let (uuid, bus_id) = (uuid.to_owned(), bus_id.to_owned());
                self.gpus.push(DcgmGpu { index, uuid, bus_id, ..DcgmGpu::default() });
                self.gpus.last_mut().expect("just added")
            }
        };
        match name {
            "GPU_UTIL" => gpu.utilization = (value <= 100.0).then_some(value / 100.0),
            _ => gpu.memory_used_mib = (value <= MOST_MIB).then_some(value),
        }
    }
}

/// Returns whether two PCI bus ids are of one device: `0000:3b:00.0` is `00000000:3B:00.0`, and
/// `3b:00.0` too.
fn same_bus(a: &str, b: &str) -> bool {
    let split = |id: &str| -> Option<(u32, String)> {
        let (rest, device) = id.rsplit_once(':')?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let domain = u32::from_str_radix(domain, 16).ok()?;
        Some((domain, format!("{bus}:{device}").to_ascii_lowercase()))
    };
    split(a).is_some_and(|a| split(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As dcgm-exporter 3.3 writes it.
    const PAGE: &str = r#"# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-aa",pci_bus_id="00000000:3B:00.0",device="nvidia0",modelName="NVIDIA A100, \"80GB}\"",Hostname="h"} 87
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-bb",pci_bus_id="00000000:5E:00.0",device="nvidia1",modelName="NVIDIA A100",Hostname="h"} 0
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-aa",pci_bus_id="00000000:3B:00.0",device="nvidia0",Hostname="h"} 40960
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-aa",pci_bus_id="00000000:3B:00.0",device="nvidia0",modelName="NVIDIA A100, \"80GB}\"",Hostname="h"} 40000
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-cc",pci_bus_id="00000000:86:00.0"} NaN
DCGM_FI_DEV_FB_USED{gpu="2",UUID="GPU-cc",pci_bus_id="00000000:86:00.0"} 9223372036854775794
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-dd",pci_bus_id="00000000:af:00.0"} 1000
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-dd",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"} 50
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-aa"} 40
"#;

    fn check(name: &str, expected: &[(Option<f64>, Option<f64>)]) {
        let page = DcgmPage::parse(PAGE).expect("GPUs");
        let found: Vec<_> =
            page.named(name).map(|gpu| (gpu.utilization, gpu.memory_used_mib)).collect();
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn a_gpu_is_found_by_any_of_its_names() {
        for name in ["0", "GPU-aa", "gpu-AA", "0000:3b:00.0", "3B:00.0", "00000000:3B:00.0"] {
            check(name, &[(Some(0.87), Some(40000.0))]);
        }
        check("1", &[(Some(0.0), None)]);
        for stranger in ["9", "", "GPU-zz", "0001:3b:00.0", "00.0"] {
            check(stranger, &[]);
        }
    }

    #[test]
    fn what_is_no_number_or_of_a_part_of_a_gpu_is_not_known() {
        check("2", &[(None, None)]);
        check("3", &[(None, None)]);
    }

    #[test]
    fn one_number_on_a_page_of_two_machines_is_two_gpus() {
        let line = |uuid| format!("DCGM_FI_DEV_GPU_UTIL{{gpu=\"0\",UUID=\"{uuid}\"}} 1\n");
        let page = DcgmPage::parse(&[line("GPU-a"), line("GPU-b")].concat()).expect("GPUs");
        assert_eq!(page.named("0").count(), 2);
    }

    #[test]
    fn a_page_without_gpus_says_nothing() {
        for page in [
            "",
            "<html>",
            "DCGM_FI_DEV_GPU_UTIL",
            "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"",
            "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\"} many",
            "DCGM_FI_DEV_SM_CLOCK{gpu=\"0\"} 1410",
            "vllm:num_requests_running 4",
        ] {
            assert_eq!(DcgmPage::parse(page), None, "{page}");
        }
    }
}
