//! Which device, and what this machine has. Nothing here prints.

mod isa;

use candle_core::Device;

use crate::{Error, Result};
pub use isa::Isa;

/// What the caller asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// CUDA where it is built in and a device answers, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

/// A device and the reason for it, a phrase that follows "device: …".
#[derive(Clone, Debug)]
pub struct Choice {
    pub device: Device,
    pub reason: String,
}

/// Chooses where to compute.
///
/// Errors: [`Error::Config`] if [`Wanted::Cuda`] cannot be had; the other two always succeed.
pub fn choose(wanted: Wanted) -> Result<Choice> {
    let cpu = |reason: String| Choice { device: Device::Cpu, reason };
    if wanted == Wanted::Cpu {
        return Ok(cpu("the CPU, as asked".into()));
    }
    match cuda() {
        Ok(device) => Ok(Choice { device, reason: "the first CUDA device".into() }),
        Err(why) if wanted == Wanted::Auto => Ok(cpu(format!("the CPU, because {why}"))),
        Err(why) => Err(Error::config("", format!("CUDA cannot be used: {why}"), "Run without it to use the CPU.")),
    }
}

fn cuda() -> std::result::Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no CUDA (feature `cuda`)".into());
    }
    // The CUDA bindings panic where the driver's library is absent, so its device files are looked for first.
    if !["/dev/nvidiactl", "/dev/dxg"].iter().any(|file| std::path::Path::new(file).exists()) {
        return Err("no NVIDIA driver is loaded".into());
    }
    Device::new_cuda(0).map_err(|e| format!("no CUDA device answers ({e})"))
}

/// Runs `body` on a thread of rayon's pool; within it, on the thread that it is called from.
///
/// Outside the pool, each parallel operation puts the calling thread to sleep and wakes it again, which takes as long as a
/// product of one token; and memory that one thread frees is no use to another. So a program enters the pool once, for
/// all that it computes.
pub fn on_pool<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| body())
}

/// A device in words, with the threads that a CPU computes on.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
        Device::Cuda(_) => "CUDA".into(),
        Device::Metal(_) => "Metal".into(),
    }
}

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name, where the system tells.
    pub processor: Option<String>,
    /// Threads that this process may use.
    pub cores: usize,
    /// The instruction sets that it has, of those that products are written for.
    pub instruction_sets: Vec<Isa>,
    /// Bytes of memory, where the system tells.
    pub memory_total: Option<u64>,
    /// Bytes that a new program can take without swapping, where the system tells.
    pub memory_available: Option<u64>,
}

/// Looks at this machine.
pub fn machine() -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Machine {
        processor: line(&cpuinfo, "model name").map(Into::into),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
        instruction_sets: Isa::ALL.into_iter().filter(|isa| isa.is_present()).collect(),
        memory_total: kilobytes(&meminfo, "MemTotal"),
        memory_available: kilobytes(&meminfo, "MemAvailable"),
    }
}

/// The most memory that this process has ever held, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    status("VmHWM")
}

/// The memory that this process holds now, in bytes; 0 where the system does not tell.
pub fn rss_bytes() -> u64 {
    status("VmRSS")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, key).unwrap_or(0)
}

/// The value of `key : value` in a file of /proc.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// Linux writes `kB` and means 1024 bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    line(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_key() {
        let text = "MemTotal:       16384 kB\nMemTotalish:  1 kB\nmodel name\t: A: B\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(16384 * 1024));
        assert_eq!(kilobytes(text, "MemFree"), None);
        assert_eq!(line(text, "model name"), Some("A: B"));
    }

    #[test]
    fn the_cpu_is_always_there_and_says_why() {
        let choice = choose(Wanted::Cpu);
        assert!(choice.is_ok_and(|c| c.device.is_cpu() && !c.reason.is_empty()));
        assert!(choose(Wanted::Auto).is_ok());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_counted_in_bytes() {
        let (peak, now) = (peak_rss_bytes(), rss_bytes());
        assert!(peak >= now / 2 && now > 1 << 20, "peak {peak}, now {now}");
        assert!(machine().memory_total.is_some_and(|total| total > peak));
    }
}
