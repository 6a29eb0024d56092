//! What the NVIDIA driver tells: GPUs, their memory, their NVLinks. The PCI tree comes from [`Sysfs`].

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::discover::{Discover, DiscoverError};
use crate::matrix::{Relation, Speeds, join};
use crate::{Sysfs, Topology};

/// Asks the driver of this machine through NVML, whose library is loaded at run time.
#[derive(Clone, Debug, Default)]
pub struct Driver {
    /// Where the PCI tree is read.
    pub sysfs: Sysfs,
}

/// More NVLinks than any GPU has.
const MOST_LINKS: u32 = 36;

/// What a GPU says of itself.
struct Told {
    name: String,
    address: String,
    memory: Option<u64>,
    /// NVLinks to each other GPU, by address, and to a switch.
    links: Vec<String>,
    to_switch: u32,
    /// GB/s of one NVLink, and of PCIe, in one direction.
    nvlink: Option<f64>,
    pcie: Option<f64>,
}

impl Discover for Driver {
    fn discover(&self) -> Result<Topology, DiscoverError> {
        let nvml = Nvml::init().map_err(no_driver)?;
        let count = nvml.device_count().map_err(no_driver)?;
        if count == 0 {
            return Err(DiscoverError::NoGpu { place: "the NVIDIA driver".to_owned() });
        }
        let mut told = Vec::new();
        for index in 0..count {
            told.push(ask(&nvml.device_by_index(index).map_err(refused("its GPUs"))?)?);
        }
        let addresses: Vec<String> = told.iter().map(|gpu| gpu.address.clone()).collect();
        let mut matrix = self.sysfs.matrix(&addresses);
        for (gpu, told) in matrix.gpus.iter_mut().zip(&told) {
            gpu.model = Some(told.name.clone());
            gpu.memory_bytes = told.memory;
        }
        for a in 0..told.len() {
            for b in 0..told.len() {
                let direct = told[a].links.iter().filter(|other| **other == addresses[b]).count();
                let lanes = match direct {
                    0 => told[a].to_switch.min(told[b].to_switch),
                    direct => direct as u32,
                };
                if a != b && lanes > 0 {
                    matrix.relations[a][b] = Relation::Nvlink(lanes);
                }
            }
        }
        let usual = Speeds::default();
        let least = |of: fn(&Told) -> Option<f64>| told.iter().filter_map(of).reduce(f64::min);
        let speeds = Speeds {
            nvlink: least(|gpu| gpu.nvlink).unwrap_or(usual.nvlink),
            pcie: least(|gpu| gpu.pcie).unwrap_or(usual.pcie),
            ..usual
        };
        Ok(join(vec![(self.sysfs.host(), matrix, speeds)], None))
    }
}

pub(crate) fn no_driver(error: NvmlError) -> DiscoverError {
    DiscoverError::NoDriver { reason: error.to_string() }
}

pub(crate) fn refused(what: &'static str) -> impl Fn(NvmlError) -> DiscoverError {
    move |error| DiscoverError::Driver { what, reason: error.to_string() }
}

fn ask(device: &Device<'_>) -> Result<Told, DiscoverError> {
    let pci = device.pci_info().map_err(refused("where a GPU is"))?;
    let (mut links, mut to_switch, mut nvlink) = (Vec::new(), 0, None);
    for number in 0..MOST_LINKS {
        let link = device.link_wrapper_for(number);
        if !matches!(link.is_active(), Ok(true)) {
            continue;
        }
        // A GPU at the other end, or a switch that is no PCI device to us.
        match link.remote_pci_info().map(|remote| address(&remote.bus_id)) {
            Ok(other) if is_gpu(device, &other) => links.push(other),
            _ => to_switch += 1,
        }
        nvlink = nvlink.or_else(|| link.version().ok().map(per_link));
    }
    let generation = device.max_pcie_link_gen().ok();
    let width = device.max_pcie_link_width().ok();
    Ok(Told {
        name: device.name().map_err(refused("what a GPU is"))?,
        address: address(&pci.bus_id),
        memory: device.memory_info().ok().map(|memory| memory.total),
        links,
        to_switch,
        nvlink,
        pcie: generation
            .zip(width)
            .map(|(generation, width)| per_lane(generation) * f64::from(width)),
    })
}

/// Returns whether the device at an address is one of this driver's GPUs.
fn is_gpu(device: &Device<'_>, address: &str) -> bool {
    device.nvml().device_by_pci_bus_id(address).is_ok()
}

/// Returns GB/s of one NVLink in one direction, by its version.
fn per_link(version: u32) -> f64 {
    match version {
        0 | 1 => 20.0,
        2..=4 => 25.0,
        _ => 50.0,
    }
}

/// Returns GB/s of one PCIe lane in one direction, by its generation: 1 GB/s in the third, and twice as
/// much in each later one.
fn per_lane(generation: u32) -> f64 {
    match generation {
        0 | 1 => 0.25,
        2 => 0.5,
        later => f64::from(1_u32 << (later - 3).min(5)),
    }
}

/// Returns an address as Linux writes it: four digits of domain, small letters.
fn address(bus_id: &str) -> String {
    let text = bus_id.to_ascii_lowercase();
    match text.split_once(':') {
        Some((domain, rest)) if domain.len() > 4 => {
            format!("{}:{rest}", &domain[domain.len() - 4..])
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_linux_writes_them() {
        assert_eq!(address("00000000:1B:00.0"), "0000:1b:00.0");
        assert_eq!(address("0000:1b:00.0"), "0000:1b:00.0");
    }

    #[test]
    fn links_are_as_fast_as_their_generation() {
        assert_eq!([per_link(1), per_link(3), per_link(5)], [20.0, 25.0, 50.0]);
        assert_eq!([3, 4, 5].map(|generation| per_lane(generation) * 16.0), [16.0, 32.0, 64.0]);
    }

    #[test]
    fn a_machine_without_the_driver_says_so() {
        // On a machine with GPUs this finds them.
        match Driver::default().discover() {
            Ok(machine) => assert!(!machine.gpus().is_empty()),
            Err(error) => assert!(error.to_string().contains("NVIDIA driver"), "{error}"),
        }
    }
}
